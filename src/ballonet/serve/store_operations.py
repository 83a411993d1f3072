"""Operations on what sandboxes are made from and share: images and volumes."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ballonet.base.dataclass import asdict
from ballonet.lifecycle import volumes
from ballonet.lifecycle.descriptions import describe_image, image_users
from ballonet.lifecycle.registry import Registry
from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.operations import Call, Operation, answer, nothing
from ballonet.serve.tokens import Scope


async def _list_images(call: Call) -> Response:
    def images() -> list[dict[str, Any]]:
        from ballonet.images.store import ImageStore

        users = image_users()
        return [describe_image(image, users) for image in ImageStore.open().list()]

    return answer(await call.services.blocking(images))


async def _find_image(call: Call) -> Response:
    reference = call.query.reference

    def find() -> dict[str, Any]:
        from ballonet.images.store import ImageStore

        return describe_image(ImageStore.open().find(reference), image_users())

    return answer(await call.services.blocking(find))


async def _pull(call: Call) -> Response:
    body = call.body

    def pull() -> dict[str, Any]:
        from ballonet.images.store import ImageStore

        image = ImageStore.open().resolve(body.reference, pull=body.pull)
        return describe_image(image, image_users())

    return answer(await call.services.slow(pull))


async def _tag(call: Call) -> Response:
    body = call.body

    def tag() -> dict[str, Any]:
        from ballonet.images.store import ImageStore

        return describe_image(ImageStore.open().tag(body.reference, body.name), image_users())

    return answer(await call.services.blocking(tag))


async def _remove_image(call: Call) -> Response:
    reference = call.query.reference

    def remove() -> list[str]:
        from ballonet.images.store import ImageStore

        return list(ImageStore.open().remove(reference, users=image_users()))

    return answer(results.Removed(await call.services.blocking(remove)))


async def _list_volumes(call: Call) -> Response:
    def listed() -> list[dict[str, Any]]:
        with Registry.open() as registry:
            return [asdict(volume) for volume in volumes.list_volumes(registry)]

    return answer(await call.services.blocking(listed))


async def _create_volume(call: Call) -> Response:
    name = call.body.name

    def create() -> dict[str, Any]:
        volumes.create(name)
        with Registry.open() as registry:
            return next(asdict(volume) for volume in volumes.list_volumes(registry) if volume.name == name)

    return answer(await call.services.blocking(create), 201, {"Location": f"/v1/volumes/{name}"})


async def _remove_volume(call: Call) -> Response:
    def remove(name: str) -> None:
        with Registry.open() as registry:
            volumes.remove(registry, name)

    await call.services.blocking(remove, call.name)
    return nothing()


_NO_IMAGE = {404: "there is no such image"}

OPERATIONS = [
    Operation("GET", "/v1/images", _list_images, Scope.READ, "List images", result=list[results.Image]),
    Operation(
        "GET",
        "/v1/images/find",
        _find_image,
        Scope.READ,
        "Inspect an image",
        query=take.ImageQuery,
        result=results.Image,
        errors=_NO_IMAGE,
    ),
    Operation(
        "POST",
        "/v1/images/pull",
        _pull,
        Scope.ADMIN,
        "Download an image from a registry",
        body=take.PullBody,
        result=results.Image,
        errors=_NO_IMAGE | {422: "the image cannot be used", 502: "the image could not be fetched"},
    ),
    Operation(
        "POST",
        "/v1/images/tag",
        _tag,
        Scope.ADMIN,
        "Add a name to an image",
        body=take.TagBody,
        result=results.Image,
        errors=_NO_IMAGE,
    ),
    Operation(
        "DELETE",
        "/v1/images",
        _remove_image,
        Scope.ADMIN,
        "Remove a name of an image; the image is deleted with its last name",
        query=take.ImageQuery,
        result=results.Removed,
        errors=_NO_IMAGE | {409: "the image is in use"},
    ),
    Operation("GET", "/v1/volumes", _list_volumes, Scope.READ, "List volumes", result=list[results.Volume]),
    Operation(
        "POST",
        "/v1/volumes",
        _create_volume,
        Scope.ADMIN,
        "Create a volume; an existing one is not changed",
        body=take.NameBody,
        result=results.Volume,
        status=201,
    ),
    Operation(
        "DELETE",
        "/v1/volumes/{name}",
        _remove_volume,
        Scope.ADMIN,
        "Remove a volume and its contents",
        status=204,
        errors={404: "there is no such volume", 409: "the volume is in use"},
    ),
]
