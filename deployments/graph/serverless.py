"""Serverless jobs of the graph routes: answered as the route would, by whichever application serves the model.

A graph may have tens of megabytes and its job is remembered for a while, so the document goes to the object store and
the job keeps where. All other answers are small.
"""

from typing import Any

import ray

from core.clock import SYSTEM_CLOCK
from core.deadline import Deadline
from core.errors import UploadFailed
from core.exchange.graph import forward_pass, generate_graph, missed_deadline
from core.exchange.graph_jobs import not_uploaded, receipt_of
from core.exchange.graph_prompt import parse_chat_prompt
from core.exchange.graph_steering import steer
from core.exchange.serverless import job_output
from core.job_state import Kept
from core.wire.graph import ForwardPassRequest, GraphGenerationRequest, ParseChatPromptRequest
from core.wire.graph_jobs import GraphServerlessInput
from deployments.gateway.directory import Directory
from deployments.graph.client import GraphClient


async def graph_output(asked: GraphServerlessInput, directory: Directory, timeout_s: float) -> Any:
    """The output of a job: its route's reply as JSON, or where the reply lies (`Kept`, of JSON bytes).

    Args:
        asked: The job's input. If it names a deadline that has passed, the output says so and nothing is done.
        directory: Where applications are looked up, anew for every job.
        timeout_s: Longest time for the job.

    Raises:
        RayscopeError: As the route would answer it.
    """
    missed = missed_deadline(asked.deadline, SYSTEM_CLOCK.time())
    if missed is not None:
        return job_output(missed)
    request = asked.request()
    deadline = Deadline.after(timeout_s)
    if asked.deadline is not None:
        deadline = min(deadline, Deadline(asked.deadline))
    await directory.refresh()
    if isinstance(request, ParseChatPromptRequest):
        client = await directory.find_graphs(request.model_id)
        return job_output(parse_chat_prompt(request, client.served.model))
    client = await directory.find_graphs(request.model_id, request.transcoder_set)
    if isinstance(request, GraphGenerationRequest):
        return await _graph(request, client, deadline)
    if isinstance(request, ForwardPassRequest):
        looking = forward_pass(request, client.served)
        return job_output(looking.reply(await client.forward_pass(looking.question, deadline)))
    holding = steer(request, client.served)
    return job_output(holding.reply(await client.intervene(holding.question, deadline)))


async def _graph(request: GraphGenerationRequest, client: GraphClient, deadline: Deadline) -> Any:
    question = generate_graph(request, client.served, SYSTEM_CLOCK.time())
    try:
        published = await client.generate(question, deadline)
    except UploadFailed as error:
        return job_output(not_uploaded(error))
    if published.content is None:
        return job_output(receipt_of(published))
    return Kept(ray.put(published.content), len(published.content))
