"""Weights files as strangers may make them: `hostile(folder, seed)` writes them and returns their names."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict

import torch
from safetensors.torch import save

from tests.toys import pooled

INDEX = struct.Struct("<I")


def saved(value, **settings):
    sink = io.BytesIO()
    torch.save(value, sink, **settings)
    return sink.getvalue()


def state():
    return OrderedDict(pooled().state_dict())


def archive(pickled, records=(), compression=zipfile.ZIP_STORED, folder="archive"):
    """A file like torch's, of any pickle and records."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as out:
        out.writestr(f"{folder}/data.pkl", pickled)
        for name, content in (("byteorder", b"little"), ("version", b"3\n"), *records):
            out.writestr(f"{folder}/{name}", content)
    return sink.getvalue()


def header(names, size=0, length=None):
    text = names if isinstance(names, bytes) else json.dumps(names).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(size)


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def calling(line, *arguments):
    """A pickle that calls module.name with some arguments, of protocol 2."""
    module, name = line
    body = pickle.dumps(arguments, 2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + body + b"R."


def storage(kind, key, elements, view):
    """The instructions that refer to a storage; files from before torch 1.6 say of which view."""
    parts = [b"X" + INDEX.pack(7) + b"storage", f"ctorch\n{kind}\n".encode()]
    parts += [b"X" + INDEX.pack(len(text)) + text.encode() for text in (key, "cpu")]
    number = pickle.dumps(elements, 2)[2:-1]
    return b"(" + b"".join(parts) + number + view + b"tQ"


def tensor(kind, key, elements, offset, size, stride, view=b""):
    """A dict of one tensor "a" over a storage."""
    numbers = b"".join(pickle.dumps(one, 2)[2:-1] for one in (offset, size, stride))
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(kind, key, elements, view) + numbers + b"\x89ccollections\n"
    )
    return b"\x80\x02}X" + INDEX.pack(1) + b"a" + call + b"OrderedDict\n)RtRs."


def legacy(pickled, keys=(), contents=b""):
    parts = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*parts, pickled, pickle.dumps(list(keys), 2), contents])


def laughing():
    """A tuple of tuples, whose hash takes 2^60 steps, as a key."""
    body = b")q\x00" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
    return b"\x80\x02}(" + body + b"K\x01u."


def nested(levels):
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


def copies():
    """One list of 100,000 members, copied by every one of 5,000 calls."""
    many = b"](" + b"K\x01" * 100_000 + b"eq\x00"
    return b"\x80\x02](" + many + b"ctorch\nSize\nq\x01" + b"h\x01h\x00\x85R" * 5_000 + b"e."


def overlapping(content, times):
    """A list of many records that are one and the same piece of the file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as out:
        out.writestr("archive/data.pkl", pickle.dumps({}, 2))
        out.writestr("archive/data/0", content)
        first = out.getinfo("archive/data/0")
        for number in range(1, times):
            other = zipfile.ZipInfo(f"archive/data/{number}")
            for name in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(other, name, getattr(first, name))
            out.filelist.append(other)
            out.NameToInfo[other.filename] = other
            out._didModify = True
    return sink.getvalue()


def doubled():
    """A list in which one name stands twice."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as out:
        out.writestr("archive/data.pkl", pickle.dumps({}, 2))
        out.writestr("archive/data.pkm", pickle.dumps({}, 2))
    return sink.getvalue().replace(b"data.pkm", b"data.pkl")


def scripted():
    sink = io.BytesIO()
    with torch.jit.optimized_execution(False):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), sink)
    return sink.getvalue()


def safetensors():
    """Name to content of .safetensors files."""
    whole = save({name: value.contiguous() for name, value in state().items()})
    good = header({"a": entry([2], 0, 8)}, 8)
    twice = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    )
    return {
        "empty": b"",
        "seven bytes": b"1234567",
        "zeros": bytes(100),
        "truncated": whole[: len(whole) // 2],
        "header cut": whole[:40],
        "header beyond the file": header({}, length=2**40),
        "header of 2^63": struct.pack("<Q", 2**63),
        "header not JSON": header(b"{a" * 10),
        "header not UTF-8": header(b"\xff" * 16),
        "header deep": header(b"[" * 100_000),
        "header long": header(b"[" + b"[]," * 3_000_000 + b"[]]"),
        "header a list": header([1, 2]),
        "unknown dtype": header({"a": entry([2], 0, 8, "F7")}, 8),
        "huge shape": header({"a": entry([2**40], 0, 8)}, 8),
        "overflowing shape": header({"a": entry([2**62, 8], 0, 8)}, 8),
        "negative shape": header({"a": entry([-1], 0, 8)}, 8),
        "offsets beyond": header({"a": entry([2], 0, 2**50)}, 8),
        "offsets crossed": header({"a": entry([2], 8, 0)}, 8),
        "key twice": header(twice, 8),
        "overlap": header({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8),
        "no tensors": header({}),
        "trailing": good + bytes(64),
        "a pickle": saved(state()),
        "eight bits": header({"a": entry([8], 0, 8, "F8_E8M0")}, 8),
        "other names": good,
        "wrong dtypes": save({name: value.long() for name, value in state().items()}),
    }


def pickled():
    """Name to content of .pth files."""
    whole, old = saved(state()), saved(state(), _use_new_zipfile_serialization=False)
    nan = state()
    nan["fc.weight"] = torch.full_like(nan["fc.weight"], float("nan"))
    huge = [(kind, 2**40) for kind in ("FloatStorage", "ByteStorage")]
    return {
        "empty": b"",
        "text": b"nonsense",
        "zeros": bytes(1000),
        "truncated": whole[: len(whole) // 2],
        "cut at its end": whole[:-30],
        "only a zip's begin": b"PK\x03\x04",
        "a zip of nothing": archive(b"")[:0] + b"PK\x05\x06" + bytes(18),
        "legacy truncated": old[: len(old) // 2],
        "legacy cut": old[:-1],
        "deflated": archive(
            tensor("ByteStorage", "0", 2**28, 0, (2**28,), (1,)), [("data/0", bytes(2**28))], zipfile.ZIP_DEFLATED
        ),
        "deflated pickle": archive(nested(10**6), compression=zipfile.ZIP_DEFLATED),
        "bzip2": archive(pickle.dumps({}, 2), [("data/0", bytes(2**20))], zipfile.ZIP_BZIP2),
        "overlapping": overlapping(bytes(2**20), 300),
        "record twice": doubled(),
        "no pickle": archive(b"")[:-1] + b"\0",
        "no data.pkl": archive(b"", folder="a/b"),
        "TorchScript": scripted(),
        "runs a command": saved({"a": Call(print, "this must never be printed")}),
        "legacy that runs": saved({"a": Call(os.system, "true")}, _use_new_zipfile_serialization=False),
        "evaluates": archive(calling(("builtins", "eval"), "1")),
        "plain pickle": pickle.dumps({"a": 1}),
        "reserves bytes": archive(calling(("builtins", "bytearray"), 4 * 10**9)),
        "legacy that reserves bytes": legacy(calling(("builtins", "bytearray"), 4 * 10**9)),
        "reserves a tensor": archive(calling(("torch", "FloatTensor"), 10**9)),
        "grows text": archive(
            b"\x80\x02X\x04\0\0\0aaaaq\x00" + b"c_codecs\nencode\nh\x00X\x03\0\0\0hex\x86Rq\x00" * 40 + b"."
        ),
        "opcode that reserves": archive(b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"."),
        "frame": archive(b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"."),
        "hash without end": archive(laughing()),
        "legacy hash without end": legacy(laughing()),
        "nested": archive(nested(2000)),
        "many lists": archive(nested(4 * 10**6)),
        "copies": archive(copies()),
        "stack empty": archive(b"\x80\x02a."),
        "memo missing": archive(b"\x80\x02h\x05."),
        "endless": archive(b"\x80\x02}"),
        "record shorter": archive(tensor("FloatStorage", "0", 10**6, 0, (10**6,), (1,)), [("data/0", bytes(8))]),
        "record missing": archive(tensor("FloatStorage", "0", 2, 0, (2,), (1,))),
        "tensor beyond": archive(tensor("FloatStorage", "0", 2, 0, (10**9,), (1,)), [("data/0", bytes(8))]),
        "offset beyond": archive(tensor("FloatStorage", "0", 2, 10**9, (1,), (1,)), [("data/0", bytes(8))]),
        "negative stride": archive(tensor("FloatStorage", "0", 2, 1, (2,), (-1,)), [("data/0", bytes(8))]),
        "shape of text": archive(tensor("FloatStorage", "0", 2, 0, ("x",), (1,)), [("data/0", bytes(8))]),
        "a thousand axes": archive(tensor("FloatStorage", "0", 2, 0, (1,) * 1000, (1,) * 1000), [("data/0", bytes(8))]),
        "spread by stride 0": archive(tensor("FloatStorage", "0", 1, 0, (10**12,), (0,)), [("data/0", bytes(4))]),
        **{
            f"legacy storage of 2^40, {kind}": legacy(tensor(kind, "0", size, 0, (1,), (1,), b"N"), ["0"])
            for kind, size in huge
        },
        "legacy keys of others": legacy(
            tensor("FloatStorage", "0", 1, 0, (1,), (1,), b"N"), ["7"], struct.pack("<Qf", 1, 1.0)
        ),
        "legacy view beyond": legacy(
            tensor("FloatStorage", "0", 1, 0, (1,), (1,), b"X\1\0\0\0vK\0J\0\0\0\x40\x87"),
            ["0"],
            struct.pack("<Qf", 1, 1.0),
        ),
        "legacy size of another": legacy(
            tensor("FloatStorage", "0", 1, 0, (1,), (1,), b"N"), ["0"], struct.pack("<Qf", 2**40, 1.0)
        ),
        "not a dict": saved(torch.zeros(3)),
        "a list": saved([torch.zeros(3)]),
        "a number": saved(7),
        "None": saved(None),
        "an empty dict": saved({}),
        "numbers for tensors": saved({"fc.weight": 3}),
        "keys that are numbers": saved({1: torch.zeros(2)}),
        "nested dicts": saved({"a": {"b": torch.zeros(2)}}),
        "names twice": saved({"module.a": torch.zeros(2), "a": torch.zeros(2)}),
        "a key of a megabyte": saved({"k" * 10**6: torch.zeros(2)}),
        "sparse": saved({"a": torch.eye(3).to_sparse()}),
        "quantised": saved({"a": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)}),
        "meta": saved({"a": torch.zeros(3, device="meta")}),
        "complex": saved({name: value.to(torch.complex64) for name, value in state().items()}),
        "whole numbers": saved({name: value.long() for name, value in state().items()}),
        "NaN": saved(nan),
        "another model's": saved(torch.nn.Linear(3, 3).state_dict()),
        "a module": saved(torch.nn.Linear(2, 2)),
    }


def mutated(seed, count):
    """Good files of each kind with some bytes changed, dropped or repeated; those that still are good may be read."""
    rng = random.Random(seed)
    whole = {
        "pth": saved(state()),
        "pt": saved(state(), _use_new_zipfile_serialization=False),
        "safetensors": save(state()),
    }
    for number in range(count):
        suffix = rng.choice(sorted(whole))
        content = bytearray(whole[suffix])
        for _ in range(rng.randint(1, 8)):
            # The first and last hundreds of bytes hold what matters: lists, headers, pickles.
            place = rng.choice((rng.randrange(400), -1 - rng.randrange(400), rng.randrange(len(content))))
            how = rng.randrange(3)
            if how == 0:
                content[place] = rng.randrange(256)
            elif how == 1:
                del content[place : place + rng.randint(1, 40) if place >= 0 else None]
            else:
                content[place:place] = content[place : place + rng.randint(1, 40)]
            if len(content) < 500:
                break
        yield f"mutated {number}.{suffix}", bytes(content)


def hostile(folder):
    """Write all of them; returns their names."""
    files = {f"{name}.safetensors": content for name, content in safetensors().items()}
    files |= {f"{name}.pth": content for name, content in pickled().items()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder.pth").mkdir()
    os.mkfifo(folder / "pipe.pth")
    (folder / "zero.pth").symlink_to("/dev/zero")
    (folder / "zero.safetensors").symlink_to("/dev/zero")
    (folder / "loop.pth").symlink_to(folder / "loop.pth")
    with (folder / "terabyte.pth").open("wb") as file:
        file.truncate(2**40)
    return [*files, "folder.pth", "pipe.pth", "zero.pth", "zero.safetensors", "loop.pth", "terabyte.pth", "missing.pth"]
