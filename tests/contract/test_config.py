"""Configurations as strangers write them: one sentence each, in bounded time, and nothing secret is written down."""

import copy
import json
import os
import random
import re
from datetime import date

import pytest
import yaml

from camrobust.contract.config_file import load_config, parse_config
from camrobust.contract.errors import UserError
from camrobust.contract.plain_yaml import DEEPEST, MOST_BYTES, read_yaml
from camrobust.measure.built import ModelSpec
from camrobust.run.class_names import class_names
from tests.in_process import camrobust
from tests.runs import ROOT

PLAIN = """
output: run
datasets: [{name: d, images: photos}]
models: [{name: m, builder: "tests.toys:pooled", arguments: {}}]
cams: [gradcam]
perturbations: ["contrast:1-5"]
"""
LAUGHS = "x0: &x0 [lol, lol]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 36))


def written(folder, text):
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def base(**changes):
    return read_yaml(PLAIN, "base") | changes


def arguments(value):
    return base(models=[{"name": "m", "builder": "a:b", "arguments": value}])


def refused(call, *given):
    with pytest.raises(UserError) as caught:
        call(*given)
    return str(caught.value)


TEXTS = {
    "laughing arguments": (
        PLAIN.replace("arguments: {}", "arguments: {a: &a [x, x], b: &b [*a, *a]" + "".join(
            f", {chr(99 + n)}: &{chr(99 + n)} [*{chr(98 + n)}, *{chr(98 + n)}]" for n in range(20)
        ) + "}"),
        "(line 4: aliases expand to more than 1048576 characters)",
    ),
    "laughing gallery": (
        PLAIN + LAUGHS + "gallery_images: *x35\n",
        "(line 24: aliases expand to more than 1048576 char",
    ),
    "laughing merges": (
        "a: &a {k: v}\nb: &b {<<: [" + "*a, " * 2000 + "*a]}\nc: {<<: [" + "*b, " * 2000 + "*b]}\n",
        "(line 3: aliases expand to more than 1048576 characters)",
    ),
    "a long text often": (f"a: &a {'x' * 500_000}\nb: [*a, *a, *a]", "(line 2: aliases expand to more than 1048576"),
    "an alias of itself": ("a: &a [*a]", "(line 1: an alias stands inside its own value)"),
    "a merge of itself": ("a: &a {<<: *a}", "(line 1: an alias stands inside its own value)"),
    "a date that is none": ("a:\n  2001-13-45", "(line 2: '2001-13-45' is not a valid timestamp)"),
    "a number that is none": ("a: !!float abc", "(line 1: 'abc' is not a valid float)"),
    "true that is none": ("a: !!bool abc", "(line 1: 'abc' is not a valid bool)"),
    "an empty number": ("a: !!int ''", "(line 1: '' is not a valid int)"),
    "a date by force": ("a: !!timestamp abc", "(line 1: 'abc' is not a valid timestamp)"),
    "bytes that are none": ("a: !!binary '\u00e9'", "(line 1: "),
    "a tag that runs": ("a: !!python/object/apply:os.system [true]", "(line 1: could not determine a con"),
    "many digits": ("a: " + "9" * 5000, "(line 1: '99999999999999999999999999999999999999999999999999999999"),
    "many sixties": ("a: " + "1:" * 200_000 + "1", "(line 1: '1:1:1:1:1:1"),
    "deep lists": ("[" * 5000, f"(line 1: values are nested more than {DEEPEST} levels deep)"),
    "deep keys": ("{a: " * 5000, f"(line 1: values are nested more than {DEEPEST} levels deep)"),
    "deep dashes": ("- " * 3000 + "a", f"(line 1: values are nested more than {DEEPEST} levels deep)"),
    "deep by aliases": (
        "x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}]\n" for n in range(1, 60)),
        f"(line 40: values are nested more than {DEEPEST} levels deep)",
    ),
    "many values": ("[" + "1," * 200_000 + "1]", "(line 1: there are more than 100000 values)"),
    "NUL": ("a: b\nc: \0", "(line 2: the character #x0000 is not allowed)"),
    "a tab": ("a:\n\t- b", "(line 2: found character '\\t' that cannot start any token)"),
    "two documents": ("a: 1\n---\nb: 2", "(line 2: but found another document)"),
    "no such anchor": ("a: *b", "(line 1: found undefined alias 'b')"),
    "a list as key": ("? [a]\n: 1", "(line 1: found unhashable key)"),
    "a long tag": ("a: !" + "x" * 100_000 + " b", "(line 1: could not determine a constructor for the tag '!xxx"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_not_yaml_is_told_with_its_line(name, tmp_path):
    text, place = TEXTS[name]
    said = refused(load_config, written(tmp_path, text))
    assert said.startswith(f"config: '{tmp_path}/run.yaml' is not valid YAML {place}")
    assert said.endswith("; correct it")
    assert len(said) < 500
    assert refused(load_config, written(tmp_path, PLAIN), [f"gallery_images={text}"]).startswith(
        f"--set gallery_images: the value is not valid YAML {place}"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAIN + "perturbations: [fog]\n", "gives the key 'perturbations' twice, in lines 6 and 7; keep one"),
        (PLAIN + "metric:\n  rbo_p: 0.9\n  ties: b\n  rbo_p: 0.8\n", "gives the key 'rbo_p' twice, in lines 8 and 10"),
        (PLAIN + "x: {1: a, 0x1: b}\n", "gives the key 1 twice, in lines 7 and 7; keep one"),
        (PLAIN + "x: {1: a, true: b}\n", "gives the key True twice, in lines 7 and 7; keep one"),
    ],
)
def test_a_key_given_twice_is_told_with_both_lines(text, said, tmp_path):
    assert refused(load_config, written(tmp_path, text)).startswith(f"config: '{tmp_path}/run.yaml' {said}")


def test_merges_keep_working(tmp_path):
    text = PLAIN.replace("{name: d, images: photos}", "&d {name: d, images: photos}, {<<: *d, name: e}")
    config = load_config(written(tmp_path, text))
    assert [(one.name, one.images) for one in config.datasets] == [("d", "photos"), ("e", "photos")]
    twice = "a: &a {p: 1, q: 2}\nb: &b {<<: *a, q: 3}\nc: {<<: [*b, *a], r: 4}\nd: {<<: *b, <<: *a, q: 5}\n"
    assert read_yaml(twice, "x") == yaml.safe_load(twice)
    assert read_yaml(twice, "x")["d"] == {"p": 1, "q": 5}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must hold keys and values, got nothing; `camrobust init` writes an example"),
        (b"[a]", "must hold keys and values, got a list; `camrobust init` writes an example"),
        (b"7", "must hold keys and values, got a number; `camrobust init` writes an example"),
        (b"2001-12-14", "must hold keys and values, got date; `camrobust init` writes an example"),
        ("a: é".encode("latin-1"), "is not valid UTF-8 (byte 3); save it as UTF-8"),
        (PLAIN.encode("utf-16"), "is not valid UTF-8 (byte 0); save it as UTF-8"),
        (b"#" * (MOST_BYTES + 1), f"has more than {MOST_BYTES} bytes; give the path of a YAML file"),
    ],
)
def test_a_file_that_is_no_configuration_is_told(content, said, tmp_path):
    assert refused(load_config, written(tmp_path, content)) == f"config: '{tmp_path}/run.yaml' {said}"


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    assert load_config(written(tmp_path, "\ufeff" + PLAIN)).cams == ("gradcam",)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10**8)
    for name in ("pipe", "zero", "."):
        place = str(tmp_path / name)
        said = f"config: '{place}' is a folder, a pipe or a device; give the path of a YAML file"
        assert refused(load_config, place) == said
    assert refused(load_config, tmp_path / "huge").endswith("bytes; give the path of a YAML file")
    assert refused(load_config, tmp_path / "loop").startswith("config: there is no file ")
    assert refused(load_config, "a\0b").startswith("config: there is no file ")
    spec = ModelSpec("m", "a:b")
    for name in ("pipe", "zero"):
        said = refused(class_names, spec, str(tmp_path / name), 10)
        assert re.fullmatch(r"model 'm': .* is not a regular file; correct classes", said)
    said = refused(class_names, spec, str(tmp_path / "huge"), 10)
    assert said == f"model 'm': {tmp_path}/huge has more than 16777216 bytes and is not read; correct classes"


def test_tables_that_are_no_files_or_too_large_are_told(tmp_path):
    from camrobust.io.manifest import list_images
    from camrobust.io.table_bytes import MOST_BYTES as MOST_TABLE_BYTES

    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(2**40)
    said = refused(list_images, "d", str(tmp_path / "zero.csv"))
    assert (
        said == f"dataset 'd': {tmp_path}/zero.csv is not a regular file; give a folder, a prefix, an image or a table"
    )
    said = refused(list_images, "d", str(tmp_path / "huge.csv"))
    assert said == (
        f"manifest: {tmp_path}/huge.csv has more than {MOST_TABLE_BYTES} bytes and is not read; correct the path"
    )


VALUES = {
    "not a number": ({"x": float("nan")}, "x: a number must be finite, got nan"),
    "infinite": ({"x": [1, float("inf")]}, "x.1: a number must be finite, got inf"),
    "many bits": ({"x": 1 << 9000}, "x: a number must fit into 64 bits, got a number of 9001 bits"),
    "a date": ({"x": date(2001, 12, 14)}, "x: must be text, a number, a list or a mapping, not date; quote it"),
    "bytes": ({"x": b"a"}, "x: must be text, a number, a list or a mapping, not bytes; quote it, got b'a'"),
    "NUL": ({"x": "a\0b"}, "x: text must not contain control characters or lone surrogates, got 'a\\x00b'"),
    "escape": ({"x": "a\x1b[2J"}, "x: text must not contain control characters or lone surrogates, got 'a\\x1b[2J'"),
    "half a character": ({"x": "\ud800"}, "x: text must not contain control characters or lone surrogates, got '"),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_what_run_json_could_not_hold_is_refused(name):
    value, said = VALUES[name]
    assert refused(parse_config, arguments(value)).startswith(f"config: models.0.arguments.{said}")


def test_keys_must_be_text():
    said = "config: models.0.arguments: a key must be text, got False; quote it"
    assert refused(parse_config, arguments({False: 1})) == said
    assert refused(parse_config, base() | {None: 1}) == "config: a key must be text, got None; quote it"


@pytest.mark.parametrize(
    "changes",
    [
        {"cams": ["x" * 10**5]},
        {"perturbations": ["x" * 10**5]},
        {"perturbations": [{"x" * 10**5: 1}]},
        {"perturbations": [{"gaussian_noise": [["1"] * 10**5]}]},
        {"perturbations": [{"gaussian_noise": 1, "replicates": "x" * 10**5}]},
        {"perturbations": [{"gaussian_noise": {"sigma": "x" * 10**5}}]},
        {"perturbations": [{"compose": "x" * 10**5}]},
        {"perturbations": [{"a" * 10**5: 1, "b" * 10**5: 2}]},
        {"perturbations": ["fog:" + "9" * 900]},
        {"segments": {"method": "x" * 10**5}},
        {"segments": {"kernel_size": "x" * 10**5}},
        {"metric": {"similarities": ["x" * 10**5]}},
        {"metric": {"x" * 10**5: 1}},
        {"gallery_images": [["x" * 1000] * 10] * 10},
        {"x" * 10**5: 1},
        {"models": [{"name": "m", "builder": "a:b", "weights": "x" * 10**5}]},
        {"models": [{"name": "m", "builder": "a:b", "classes": "x" * 10**5}]},
        {"models": [{"name": "m", "builder": "a:b", "classes": [["x" * 10**5]]}]},
        {"datasets": "x" * 10**5},
        {"output": "x" * 10**5},
    ],
)
def test_quoted_values_are_short(changes):
    from camrobust.core.explain.cams import CAMS
    from camrobust.core.perturb import variants
    from camrobust.measure.settings import MeasureSettings

    def all_of(data):
        config = parse_config(data)
        [CAMS[name] for name in config.cams]
        MeasureSettings(config.cams, 0, similarities=config.metric.similarities).measures()
        variants(config.perturbations)

    said = refused(all_of, base(**changes))
    assert len(said) < 1500


def test_a_strength_that_no_float_holds_is_told():
    from camrobust.core.perturb import variants

    said = refused(variants, [{"gaussian_noise": {"sigma": 10**400}}])
    assert said.startswith(
        "perturbations: sigma of gaussian_noise must be a number of at least 0 (share of the pixel range), got a "
        "number of 1329 bits"
    )


def test_data_from_python_is_bounded_too():
    many = [["x" * 1000] * 1000] * 1000
    said = refused(parse_config, base(gallery_images=many))
    assert said == "config: it holds more than 1048576 characters and values; leave some out"


def test_set_does_not_repeat_the_value():
    said = refused(load_config, ROOT / "jobs" / "configs" / "first.yaml", ["output.a.b=hunter2"])
    assert said == "--set output.a.b: 'output' holds a single value, so nothing can be set inside it"
    said = refused(load_config, ROOT / "jobs" / "configs" / "first.yaml", [f"models.{'9' * 5000}.name=a"])
    assert said.endswith("must be a position from 0 to 0")
    assert len(said) < 400


HOSTILE = [
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    float("-inf"),
    10**30,
    1 << 70000,
    "",
    " ",
    "x" * 5000,
    "\0",
    "\x1b[2J",
    "\ud800",
    "é",
    "../..",
    "s3://",
    "s3://b/x?sig=1",
    "a:b:c",
    "fog:9-1",
    "fog:",
    "+",
    "{}",
    [],
    [[]],
    [None],
    {},
    {"": 1},
    {"a": {}},
    {None: 1},
    {1: 2},
    {True: 1},
    [[[[[["x"]]]]]],
    b"x",
    date(2001, 1, 1),
    {"fog": {"a": "b"}},
    {"replicates": 3},
    ["a", "a"],
]


def mutated(data, rng):
    """Data in which something is replaced by something hostile, is gone, or stands under a hostile key."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        place = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            below = place[key]
            if isinstance(below, (dict, list)) and below and rng.random() < 0.7:
                place = below
                continue
            how = rng.random()
            if how < 0.8:
                place[key] = copy.deepcopy(rng.choice(HOSTILE))
            elif how < 0.9:
                del place[key]
            elif isinstance(place, dict):
                place[rng.choice(["token", "x", "", "name", "\x1b", 7])] = place.pop(key)
            break
    return data


def test_a_mutated_configuration_is_taken_or_one_sentence():
    from camrobust.core.perturb import variants

    rng = random.Random(20261127)
    whole = yaml.safe_load((ROOT / "jobs" / "configs" / "spot.yaml").read_text()) | {
        "metric": {"rbo_p": 0.9, "ties": "b", "similarities": ["kendall"]},
        "image": {"resize": 64, "crop": 64},
        "segments": {"method": "slic", "n_segments": 20},
        "gallery_images": 3,
        "max_failure_share": 0.5,
        "resave_jpeg_quality": 85,
        "perturbations": [
            "fog:1-5",
            {"gaussian_noise": {"sigma": [0.1, 0.2]}, "replicates": 2},
            {"compose": ["fog:1", "snow:1"]},
        ],
        "models": [
            {
                "name": "m",
                "builder": "a:b",
                "arguments": {"a": {"b": [1, "c"]}},
                "mean": [0.5, 0.5, 0.5],
                "classes": ["a", "b"],
                "target_layer": "x.y",
                "weights": "w.pth",
            }
        ],
    }
    taken, told = 0, []
    for _ in range(3000):
        data = mutated(whole, rng)
        try:
            config = parse_config(data)
            variants(config.perturbations)
        except UserError as error:
            told.append(str(error))
            continue
        taken += 1
        assert parse_config(json.loads(json.dumps(config.model_dump(mode="json"), allow_nan=False))) == config
        assert len(config.digest()) == 16
    assert 50 < taken < 2500
    assert max(map(len, told)) < 2000


def test_mutated_text_is_taken_or_one_sentence(tmp_path):
    rng = random.Random(20261127)
    whole = (ROOT / "jobs" / "configs" / "spot.yaml").read_bytes()
    pieces = [
        b"&a ",
        b"*a",
        b"<<: ",
        b"[",
        b"{",
        b"\t",
        b"\0",
        b"- ",
        b": ",
        b"!!int ",
        b"\xff",
        b"?",
        b"%",
        b"---\n",
        b"|",
        b"'",
    ]
    taken, told = 0, []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            content[place : place + rng.randrange(3)] = rng.choice(pieces)
        path = written(tmp_path, bytes(content))
        try:
            load_config(path)
            taken += 1
        except UserError as error:
            told.append(str(error))
    assert 10 < taken < 290
    assert max(map(len, told)) < 2000
    assert not any("\n" in one for one in told)


SECRETS = {
    "token": {"token": "hunter2"},
    "hfToken": {"hfToken": "hunter2"},
    "API-KEY": {"API-KEY": "hunter2"},
    "a.b.client_secret": {"a": [0, {"b": 0}], "b": {"client_secret": "hunter2"}},
    "credentials.user": {"credentials": {"user": "hunter2"}},
    "password": {"password": 12345},
    "x": {"x": "AKIA" + "Q7" * 8},
    "key": {"key": "hf_" + "aB3" * 10},
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_the_arguments_is_refused_and_not_repeated(name):
    said = refused(parse_config, arguments(SECRETS[name]))
    assert re.fullmatch(
        r"config: 'models\.0\.arguments\.[\w.-]*' looks like a secret, and the configuration is written into run\.json"
        r"; leave it out and let your builder read it from the environment \(os\.environ\)",
        said,
    )
    assert not any(text in said for text in ("hunter2", "12345", "Q7Q7", "aB3"))


@pytest.mark.parametrize(
    "value",
    [
        {"num_tokens": 4, "class_token": True, "reg_tokens": 2, "cls_token": "[CLS]", "use_auth_token": False},
        {"token": None, "password": "", "credentials": [], "secret": {}},
        {"key": "layer4.weight", "tokenizer": "bpe", "keys": ["a"], "monkey": "x", "author": "me", "design": "x"},
        {"url": "https://host/a?width=3", "place": "s3://b/sig=3/token=4"},
        {"token": "max", "patch_token": "x", "pos_token": "mean", "visual_tokens": [1, 2], "n_tokens": "auto"},
        {"sig": 0.5, "auth": "none", "signature": "serving_default", "pass": 2},
        {"photos": "/data/sk-fundus-retina-photos-2024/images", "name": "sk-resnet50-imagenet-gradcam-v2"},
    ],
)
def test_arguments_that_only_sound_alike_are_taken(value):
    assert parse_config(arguments(value)).models[0].arguments == value


@pytest.mark.parametrize(
    "value",
    [
        {"sas": "sv=2024-01-01&sig=abcdef"}, {"azure": "?sv=2024-01-01&sig=abcdef"}, {"pass": "h0nter2!"},
        {"connection": "AccountName=a;AccountKey=abcd=="}, {"header": "Authorization: Bearer abcdefgh12"},
        {"session": "eyJhbGciOiJI.eyJzdWIiOiIx.abc"}, {"git": "glpat-abcdefghij1234567890"}, {"cookie": "id=17; a=b"},
        {"encryption_key": "0123"}, {"key_of": "sk-abcDEF0123456789abcdefgh"},
    ],
)  # fmt: skip
def test_a_secret_under_another_name_or_of_a_known_form_is_refused(value):
    with pytest.raises(UserError, match=r"looks like a secret, and the configuration is written into run\.json"):
        parse_config(arguments(value))


@pytest.mark.parametrize("name", ["写" * 27, "é" * 41])
def test_a_name_that_no_folder_can_have_is_refused(name):
    data = arguments({}) | {"datasets": [{"name": name, "images": "photos"}]}
    with pytest.raises(UserError, match="must have at most 240 characters once it is percent-encoded; shorten it"):
        parse_config(data)


@pytest.mark.parametrize("key", ["output", "datasets", "weights", "labels", "arguments"])
def test_an_address_with_a_secret_is_refused_wherever_it_stands(key):
    address = "s3://bucket/a?X-Amz-Signature=hunter2"
    changes = {
        "output": {"output": address},
        "datasets": {"datasets": [{"name": "d", "images": address}]},
        "labels": {"datasets": [{"name": "d", "images": "p", "labels": address}]},
        "weights": {"models": [{"name": "m", "builder": "a:b", "weights": address}]},
        "arguments": {"models": [{"name": "m", "builder": "a:b", "arguments": {"x": [address]}}]},
    }
    said = refused(parse_config, base(**changes[key]))
    assert said.startswith("store: the s3:// address must not hold a secret,")
    assert "hunter2" not in said


def test_a_secret_on_the_command_line_is_written_nowhere(tmp_path, capsys):
    path = written(tmp_path, PLAIN.replace("output: run", f"output: {tmp_path}/out"))
    for given in ("models.0.arguments.api_key=hunter2", "api_key=hunter2", "output=s3://b/x?token=hunter2"):
        code, printed, said = camrobust(capsys, "run", path, "--set", given, "--verbose")
        assert code == 2
        assert "hunter2" not in printed + said
    assert not (tmp_path / "out").exists()
