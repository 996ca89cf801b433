"""The `openai` package against a server: python openai_client.py http://127.0.0.1:7860 [TOKEN]"""

import base64
import io
import struct
import sys
import zlib

import openai


def png(width: int, height: int, rgba: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + rgba * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def size(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(b"\x89PNG"), picture[:16]
    return struct.unpack(">II", picture[16:24])


def file(name: str, rgba: bytes) -> io.BytesIO:
    buffer = io.BytesIO(png(64, 64, rgba))
    buffer.name = name
    return buffer


def main() -> None:
    url, token = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "none"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)

    models = [model.id for model in client.models.list()]
    assert "built-in" in models, models
    assert client.models.retrieve("built-in").owned_by == "sdq"

    drawn = client.images.generate(
        model="built-in", prompt="a red apple", n=2, size="64x64", quality="high", user="me", extra_body={"steps": 3}
    )
    assert [size(base64.b64decode(image.b64_json)) for image in drawn.data] == [(64, 64)] * 2
    assert drawn.created > 1_700_000_000 and drawn.output_format == "png"

    drawn = client.images.generate(prompt="a red apple", size="64x64", response_format="url", extra_body={"steps": 2})
    assert drawn.data[0].url.startswith(url), drawn.data[0].url

    edited = client.images.edit(
        image=file("start.png", b"\x50\x60\x70\xff"),
        mask=file("mask.png", b"\0\0\0\0"),
        prompt="a blue cup",
        size="64x64",
        extra_body={"steps": 3},
    )
    assert size(base64.b64decode(edited.data[0].b64_json)) == (64, 64)
    edited = client.images.edit(
        image=[file("a.png", b"\1\2\3\xff"), file("b.png", b"\1\2\3\xff")], prompt="a cup", extra_body={"steps": 4}
    )
    assert len(edited.data) == 1

    kinds = []
    for event in client.images.generate(
        prompt="a red apple", size="64x64", stream=True, partial_images=2, extra_body={"steps": 9}
    ):
        kinds.append(event.type)
        assert size(base64.b64decode(event.b64_json)) == (64, 64)
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"], kinds
    kinds = [
        event.type
        for event in client.images.edit(
            image=file("start.png", b"\x50\x60\x70\xff"), prompt="a cup", size="64x64", stream=True, partial_images=1,
            extra_body={"steps": 9},
        )
    ]
    assert kinds[-1] == "image_edit.completed", kinds

    try:
        client.images.generate(prompt="x", size="33x32")
        raise AssertionError("a size that is not valid was accepted")
    except openai.UnprocessableEntityError as error:
        assert error.body["param"] == "width", error.body
    try:
        client.images.generate(model="none", prompt="x")
        raise AssertionError("a model that is not there was accepted")
    except openai.NotFoundError as error:
        assert error.code == "model.not_found", error.body
    print("openai", openai.__version__, "works")


if __name__ == "__main__":
    main()
