"""circuit-tracer as an engine of its own, in an environment of its own.

    ours:    checkpoint.py   a model folder that transformers 4.57 reads
             process.py      the process in the other environment, owned
             engine.py       questions and answers, as our own types
    theirs:  worker/         scripts for the other interpreter; nothing here imports them

circuit-tracer needs a transformers that Rayscope can not use (`requirements/circuit-tracer.txt`), and shadows other
packages of its name. So it never enters this process, and nothing outside `worker/` may import it.
"""
