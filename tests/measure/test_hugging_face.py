"""`hf:` builds classifiers from folders of `save_pretrained`, normalised as their processors do; nothing is fetched."""

import re

import pytest
import torch

import camrobust
from camrobust.bench.speed.tiny_transformers import SIDE, VIT, build
from camrobust.contract.errors import UserError
from camrobust.contract.model_config import ModelConfig
from camrobust.measure.built import Built, ModelSpec
from camrobust.measure.hugging_face import _with_processor
from camrobust.measure.model import load_model
from camrobust.measure.same_network import builder_record
from camrobust.run.class_names import class_names
from tests.weights import saved

transformers = pytest.importorskip("transformers")
ANIMALS = ("cat", "dog", "hen", "cow", "pig", "ant", "bee")
WORDS = [
    "<|startoftext|>",
    "<|endoftext|>",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"),
]
TEXT = {
    "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
SIZE = {"height": SIDE, "width": SIDE}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def classifier(name="ViT"):
    torch.manual_seed(3)
    module = build(name).eval()
    module.config.id2label = dict(enumerate(ANIMALS))
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny transformer with its processor."""
    made = tmp_path_factory.mktemp("saved") / "tiny"
    classifier().save_pretrained(made)
    transformers.ViTImageProcessor(size=SIZE, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]).save_pretrained(
        made
    )
    return made


def loaded(folder, size=SIDE, **settings):
    return load_model(ModelSpec("m", f"hf:{folder}", **settings), image_size=size)


def pictures(side=SIDE):
    return torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_a_saved_classifier_is_measured_as_transformers_runs_it(folder, capfd):
    model = loaded(folder)
    assert capfd.readouterr() == ("", "")
    assert model.network.layer_name == "vit.layers.1.layernorm_before"
    assert (model.class_names, model.classes, model.remarks) == (ANIMALS, 7, ())
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    inputs = processor(images=list(pictures()), return_tensors="pt")
    torch.testing.assert_close(model.normalise(pictures()), inputs["pixel_values"])
    with torch.no_grad():
        wanted = classifier()(**inputs).logits
    torch.testing.assert_close(model.network.logits(model.normalise(pictures())), wanted)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViTImageProcessor", {"size": SIZE}),
        ("ViTImageProcessor", {"size": SIZE, "do_normalize": False}),
        ("ViTImageProcessor", {"size": SIZE, "do_rescale": False, "image_mean": [99, 110, 120], "image_std": [50] * 3}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_size": SIZE}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_pct": 1}),
        ("EfficientNetImageProcessor", {"size": SIZE, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_size": SIZE}),
        ("SegformerImageProcessor", {"size": SIZE}),
        ("BeitImageProcessor", {"size": SIZE}),
    ],
)
def test_what_a_processor_does_to_colours_is_found(kind, settings):
    processor = getattr(transformers, kind)(**settings)
    built = _with_processor(ModelSpec("m", "hf:x"), Built(torch.nn.Identity()), processor)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (built.mean, built.std))
    found = built.module((pictures().float() / 255 - mean) / std)
    wanted = processor(images=list(pictures()), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert built.size == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("kind", "settings", "size"),
    [
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (256, 224)),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384)),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, (256, 224)),
        ("ViTImageProcessor", {"do_resize": False}, None),
    ],
)
def test_the_size_of_a_processor_is_found(kind, settings, size):
    processor = getattr(transformers, kind)(**settings)
    assert _with_processor(ModelSpec("m", "hf:x"), Built(torch.nn.Identity()), processor).size == size


def test_what_run_json_and_the_report_know_of_it(folder):
    assert builder_record(ModelSpec("m", f"hf:{folder}")).package == "transformers"
    assert class_names(ModelSpec("m", "hf:x"), None, 7, ANIMALS) == list(ANIMALS)
    assert ModelConfig(builder="hf:owner/name").name == "owner/name"
    assert ModelConfig(builder=f"hf:{folder}/").name == "tiny"


def test_random_weights_come_from_the_seed(folder):
    first, again = (loaded(f"{folder}@none").state_sha256 for _ in range(2))
    assert first == again != loaded(folder).state_sha256


def test_weights_may_come_from_a_file_and_the_normalisation_from_the_configuration(folder):
    content = saved(classifier().state_dict())
    given = {"mean": (0.1,) * 3, "std": (0.2,) * 3}
    spec = ModelSpec("m", f"hf:{folder}@none", "x.pth", **given)
    model = load_model(spec, content, SIDE)
    assert model.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    assert model.state_sha256 == loaded(folder).state_sha256


def test_another_size_is_told(tmp_path):
    torch.manual_seed(0)
    build("ConvNext").save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 96}, crop_pct=0.75).save_pretrained(tmp_path)
    sentence = (
        "model 'm': its weights are for images that are resized to 128 px and cropped to 96 px; set image: "
        "{resize: 128, crop: 96}"
    )
    model = loaded(tmp_path)
    assert model.remarks == (sentence,)
    assert model.class_names == ()


PROMPTS = ("a cat", "a dog", "b")


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    def save(name):
        torch.manual_seed(0)
        text = TEXT | ({"projection_size": VIT["hidden_size"]} if name == "Siglip" else {})
        config = getattr(transformers, f"{name}Config")(vision_config=dict(VIT), text_config=text)
        module = getattr(transformers, f"{name}Model")(config).eval()
        made = tmp_path_factory.mktemp(name)
        module.save_pretrained(made)
        vocabulary = {word: number for number, word in enumerate(WORDS)}
        transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16).save_pretrained(made)
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIZE)
        processor.save_pretrained(made)
        return made, module

    return {name: save(name) for name in ("CLIP", "Siglip")}


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_prompts_are_a_head(towers, name):
    made, module = towers[name]
    model = loaded(made, arguments={"prompts": list(PROMPTS)})
    assert model.class_names == PROMPTS
    tokenizer = transformers.AutoTokenizer.from_pretrained(made)
    tokens = tokenizer(list(PROMPTS), padding="max_length", max_length=16, return_tensors="pt")
    inputs = model.normalise(pictures())
    with torch.no_grad():
        wanted = module(pixel_values=inputs, **tokens).logits_per_image
    torch.testing.assert_close(model.network.logits(inputs), wanted)
    assert not any("text" in key and key != "texts" for key in model.network.module.state_dict())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"arguments": {"prompts": ["a cat"]}}, "prompts must be a list of two or more different texts"),
        ({"arguments": {"prompts": ["a", "a"]}}, "prompts must be a list of two or more different texts"),
        ({"arguments": {"prompts": "a cat"}}, "prompts must be a list of two or more different texts"),
        ({"arguments": {"prompts": ["a", "b"], "x": 1}}, "hf: knows the argument prompts only, got x; write a"),
        ({"arguments": {"prompts": ["abcdefghijklmnopq", "b"]}}, "a prompt is longer than 16 tokens; shorten it"),
        ({"arguments": {"prompts": ["a", "b"]}, "weights": "x.pth"}, "so a weights file cannot follow; save the"),
        ({}, "holds no weights for classifier.bias, classifier.weight, so its head would be random; name a model "
             "that was trained to classify, or give arguments: {prompts: […]}"),
    ],
)  # fmt: skip
def test_mistakes_with_prompts(towers, settings, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        loaded(towers["CLIP"][0], **settings)


def without(name):
    def change(folder):
        (folder / name).unlink()

    return change


def pickled(folder):
    state = classifier().state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")


def written(text):
    return lambda folder: (folder / "config.json").write_text(text)


def backbone(folder):
    transformers.ViTModel(classifier().config).save_pretrained(folder)


CHANGES = {
    "only pickles": (
        pickled,
        "has no .safetensors file, and pickles are not loaded; write one with save_pretrained, or name the pickle as a "
        "weights file",
    ),
    "no weights": (without("model.safetensors"), "has no .safetensors file, and pickles are not loaded; write"),
    "no processor": (without("preprocessor_config.json"), "has no image processor; give mean and std"),
    "no head": (
        backbone,
        "holds no weights for classifier.bias, classifier.weight, so its head would be random; name a",
    ),
    "no configuration": (without("config.json"), "is no folder that save_pretrained wrote: its config.json names no"),
    "not JSON": (written("{"), "cannot be loaded (OSError: It looks like the config file at"),
    "own code": (
        written('{"auto_map": {"AutoConfig": "code.Config"}, "model_type": "mine"}'),
        "brings code of its own, which is not run; write a builder of your own",
    ),
    "no classifier": (
        written('{"model_type": "bert"}'),
        "is no image classifier; name one that was trained to classify",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_cannot_be_used_is_one_sentence(folder, tmp_path, change):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spoil, sentence = CHANGES[change]
    spoil(tmp_path)
    with pytest.raises(UserError, match=rf"^model 'm': '{re.escape(str(tmp_path))}' {re.escape(sentence)}"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("owner/name", "'owner/name' cannot be fetched and is not in this machine's cache; let it reach the network"),
        (
            "no such name",
            "'no such name' is neither a folder nor a possible name; write hf:OWNER/NAME or the path of a",
        ),
        ("./absent", "there is no folder './absent'; correct the path"),
        ("a/b/c", "there is no folder 'a/b/c'; correct the path"),
    ],
)
def test_a_name_that_cannot_be_had_is_one_sentence(name, sentence):
    with pytest.raises(UserError, match=f"^model 'm': {re.escape(sentence)}"):
        loaded(name)


def test_an_unknown_name_is_one_sentence(monkeypatch):
    def absent(name, **_settings):
        raise OSError(
            f"{name} is not a local folder and is not a valid model identifier listed on the hub\nIf this is …"
        )

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", absent)
    sentence = (
        "'owner/name' is neither a folder nor a model that the hub shows; correct the name, or set HF_TOKEN for a"
    )
    with pytest.raises(UserError, match=re.escape(sentence)):
        loaded("owner/name")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(
        UserError, match=re.escape("transformers is not installed; pip install 'camrobust[transformers]'")
    ):
        loaded("owner/name")


def test_a_name_is_explained_in_a_notebook(folder):
    maps = camrobust.explain(f"hf:{folder}", pictures(), ["gradcam"])
    assert maps["gradcam"].shape == (2, 4, 4)
