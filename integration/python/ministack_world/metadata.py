"""The task metadata endpoint, version 4, before ministack.

ministack has one of its own, which knows neither service nor networks and is filled by the code that starts
containers there. Invariant: each answer is of the moment it is asked.
"""

import json

import render


def before(app, estate, started):
    """`app` with the endpoint before it. `started` is called once requests are answered."""

    async def with_metadata(scope, receive, send):
        if scope["type"] == "lifespan":

            async def send_on(message):
                await send(message)
                if message["type"] == "lifespan.startup.complete":
                    started()

            await app(scope, receive, send_on)
        elif scope["type"] == "http" and scope["path"].startswith("/v4/"):
            status, body = _answer(estate, scope["path"])
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(body).encode()})
        else:
            await app(scope, receive, send)

    return with_metadata


def _answer(estate, path):
    token, _, rest = path.removeprefix("/v4/").partition("/")
    with estate.changed:
        found = estate.by_token(token)
        if not found:
            return 404, {"error": f"no running task has a container with the token {token}"}
        task, container = found
        if rest == "":
            return 200, render.metadata_container(task, container)
        if rest in ("task", "taskWithTags"):
            return 200, render.metadata_task(task, estate.options.pull_upfront)
    return 404, {"error": f"unknown path {rest}: there are /task and /taskWithTags"}
