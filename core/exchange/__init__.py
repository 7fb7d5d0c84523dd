"""Between the wire and the Runner: each request body becomes questions, their answers become the response body.

Pure functions of a served model's description and tokenizer, so everything that a request can get wrong about the model
is refused here, before a replica or a device hears of it.
"""
