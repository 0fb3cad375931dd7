"""Pickles that would run a command if anything in them were called, and files around pickles."""

import io
import pickle
import sys
import zipfile

import torch

COMMAND = b"touch ran.txt"


def _binunicode(text):
    return b"X" + len(text).to_bytes(4, "little") + text


HASHED_TO_0 = sys.hash_info.modulus
TEXT = _binunicode(COMMAND)
SHORT = b"\x8c\x0d" + COMMAND
RUNS = {
    "reduce": b"\x80\x02cos\nsystem\n" + TEXT + b"\x85R.",
    "reduce in protocol 0": b"cposix\nsystem\n(S'touch ran.txt'\ntR.",
    "reduce beside tensors": b"\x80\x02}(" + _binunicode(b"a") + b"cos\nsystem\n" + TEXT + b"\x85Ru.",
    "reduce that is thrown away": b"\x80\x02cos\nsystem\n" + TEXT + b"\x85R0}.",
    "inst": b"(S'touch ran.txt'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\n" + TEXT + b"o.",
    "build with __setstate__": b"\x80\x02cargparse\nNamespace\n)\x81}"
    + (_binunicode(b"__setstate__") + b"cos\nsystem\nsb" + TEXT + b"b."),
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + SHORT + b"\x85R.",
    "stack global from the memo": b"\x80\x04\x8c\x06system\x940\x8c\x02osh\x00\x93" + SHORT + b"\x85R.",
    "dotted stack global": b"\x80\x04\x8c\x06shutil\x8c\x09os.system\x93" + SHORT + b"\x85R.",
    "getattr": b"\x80\x02cbuiltins\ngetattr\n(c__builtin__\n__import__\n"
    + (_binunicode(b"os") + b"\x85R" + _binunicode(b"system") + b"tR" + TEXT + b"\x85R."),
    "eval": b"\x80\x02cbuiltins\neval\n" + _binunicode(b"__import__('os').system('touch ran.txt')") + b"\x85R.",
    "name in the memo": b"\x80\x02cos\nsystem\nq\x000h\x00" + TEXT + b"\x85R.",
}
"""What `pickle.loads` runs."""

MALFORMED = {
    "new object": b"\x80\x02csubprocess\nPopen\n" + TEXT + b"\x85\x81.",
    "new object of a string": b"\x80\x02" + TEXT + b")\x81.",
    "new object with keywords": b"\x80\x04cargparse\nNamespace\n)}\x92.",
    "persistent id": b"Pos.system\n.",
    "persistent id of an object": b"\x80\x02" + TEXT + b"Q.",
    "extension": b"\x80\x02\x82\x01.",
    "buffer from outside": b"\x80\x05\x97.",
    "call of a string": b"\x80\x02" + TEXT + b")R.",
    "attributes of a function": b"\x80\x02ccollections\nOrderedDict\n}" + TEXT + b"K\x01s}\x86b.",
    "attributes of a string": b"\x80\x02" + TEXT + b"}b.",
    "set of a list": b"\x80\x02](K\x00K\x01u.",
    "append to a dict": b"\x80\x02}K\x00a.",
    "empty stack": b"\x80\x02.",
    "no mark": b"\x80\x02}u.",
    "unknown memo": b"\x80\x02h\x07.",
    "unknown opcode": b"\x80\x02\xff.",
    "no stop": b"\x80\x02}",
    "huge string": b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"a.",
    "huge bytes": b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"a.",
    "huge bytearray": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"a.",
    "negative string": b"\x80\x02T\xff\xff\xff\xffa.",
    "huge number": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "huge decimal": b"I" + b"9" * 10_000 + b"\n.",
    "huge frame": b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"N.",
    "huge memo index": b"\x80\x02}r\xff\xff\xff\x7f.",
    "deep lists": b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".",
    # Each doubles what it holds, so that walking or hashing the result takes forever.
    "doubling lists": b"\x80\x02]" + b"".join(b"q\x00](h\x00h\x00e" for _ in range(200)) + b".",
    "doubling tuples as a key": b"\x80\x02})" + b"2\x86" * 200 + b"K\x01s.",
    "doubling tuples as a name": b"\x80\x02)" + b"2\x86" * 200 + b"\x8c\x01a\x93.",
    "long tuple as a key": b"\x80\x02(" + b"N" * 100_000 + b"tq\x000}" + b"h\x00Ns" * 100_000 + b".",
    "number of a megabyte as a key": b"\x80\x02\x8b@B\x0f\0"
    + b"\x01" * 10**6
    + b"q\x000}"
    + b"h\x00Ns" * 100_000
    + b".",
    "keys of one hash": b"\x80\x02}(" + b"".join(b"I%d\nN" % (k * HASHED_TO_0) for k in range(1, 50_000)) + b"u.",
    "memo of one hash": b"\x80\x02N" + b"".join(b"p%d\n" % (k * HASHED_TO_0) for k in range(1, 100_000)) + b".",
    "many arguments": b"\x80\x02(" + b"N" * 100_000 + b"tq\x00" + b"ccollections\nOrderedDict\nh\x00R.",
    # What they make is some hundred times as large as they are, and PyTorch makes copies where we make none.
    "copies of pairs": b"\x80\x02](]("
    + b"".join(_binunicode(b"%x" % k) + b"N\x86" for k in range(50_000))
    + b"e"
    + (b"\x85q\x02ccollections\nOrderedDict\nq\x01" + b"h\x01h\x02R" * 50_000 + b"e."),
    "copies of attributes": b"\x80\x02](}("
    + b"".join(_binunicode(b"%x" % k) + b"N" for k in range(50_000))
    + b"uq\x00"
    + (b"ccollections\nOrderedDict\nq\x01" + b"h\x01)Rh\x00b" * 50_000 + b"e."),
    "copies of text": b"\x80\x02]("
    + _binunicode(b"x" * 100_000)
    + b"q\x00c_codecs\nencode\nq\x01(h\x00"
    + (_binunicode(b"latin1") + b"tq\x02" + b"h\x01h\x02R" * 100_000 + b"e."),
}


def zip_around(data, **entries):
    """A zip archive as `torch.save` writes it, with the given data.pkl."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", entries.pop("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in {"version": b"3\n", **entries}.items():
            archive.writestr(f"archive/{name}", content)
    return memory.getvalue()


def legacy_around(data, rest=b"\x80\x02]."):
    """A torch file as before version 1.6, with the given third pickle."""
    memory = io.BytesIO()
    pickle.dump(torch.serialization.MAGIC_NUMBER, memory, protocol=2)
    pickle.dump(torch.serialization.PROTOCOL_VERSION, memory, protocol=2)
    pickle.dump({"little_endian": True}, memory, protocol=2)
    return memory.getvalue() + data + rest


def in_dict(data):
    """The same pickle, known by its first bytes whatever its protocol."""
    return data if data[:1] == b"\x80" else b"\x80\x02" + data


AROUND = {"pickle": in_dict, "torch": zip_around, "torch before 1.6": legacy_around}
