"""What an engine says, collected."""

from queue import SimpleQueue


def collected(engine, *requests) -> list[list]:
    """The pieces of each request's answer; all are asked at once."""
    queues = [SimpleQueue() for _ in requests]
    for request, queue in zip(requests, queues, strict=True):
        engine.ask(request, queue.put)
    answers = []
    for queue in queues:
        answers.append([queue.get(timeout=60)])
        while not answers[-1][-1].finish:
            answers[-1].append(queue.get(timeout=60))
    return answers


def text_of(pieces) -> str:
    return "".join(piece.text for piece in pieces)


def tokens_of(pieces) -> list:
    return [token for piece in pieces for token in piece.tokens]
