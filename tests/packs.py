"""One set of photos in the forms in which people hold them."""

import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq


def tar_of(path, members, kind=tarfile.PAX_FORMAT):
    """A tar of (name, content) or of ready headers."""
    with tarfile.open(path, "w", format=kind) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))


def zip_of(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)


def samples(photos, labels):
    """Members of a WebDataset: each photo, with its label as .cls or as .json in turns."""
    for number, (name, content) in enumerate(photos.items()):
        key = name.partition(".")[0]
        label = labels[name]
        beside = (f"{key}.json", json.dumps({"label": label, "caption": "a"}).encode())
        yield name, content
        yield (f"{key}.cls", str(label).encode()) if number % 2 else beside


def table_of(path, photos, labels, **options):
    """Parquet as Hugging Face writes it."""
    feature = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": content, "path": name} for name, content in photos.items()]
    columns = {"image": pa.array(cells, feature), "label": pa.array([labels[name] for name in photos], pa.int64())}
    pq.write_table(pa.table(columns), path, **options)


def in_shards(photos, count):
    """The photos in so many neighbouring groups."""
    items = list(photos.items())
    size = -(-len(items) // count)
    return [dict(items[start : start + size]) for start in range(0, len(items), size)]


def write_pack(path, photos, labels):
    """One file of the form that its extension names."""
    if path.suffix == ".parquet":
        table_of(path, photos, labels)
    else:
        {".tar": tar_of, ".zip": zip_of}[path.suffix](path, samples(photos, labels))
