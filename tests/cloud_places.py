"""Buckets and containers on the emulators of Google Cloud Storage and Azure, for tests."""

import os
import time

from camrobust.io import azure, google
from camrobust.io.addresses import parse
from camrobust.io.store import open_object

OTHERS = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_SAS_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "API_ENDPOINT_OVERRIDE")


def forget_clients():
    google.forget_google_clients()
    azure.forget_azure_clients()


def settle(monkeypatch, variables):
    """Set the environment of one cloud and clear that of others."""
    for name in OTHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget_clients()


def new_place(scheme):
    """The address of a new bucket or container, in the store that the environment names."""
    name = f"bucket-{time.time_ns()}"
    if scheme == "gs":
        google._client(os.getpid(), google._emulator(), False).create_bucket(name)
        return f"gs://{name}"
    azure._client(os.getpid(), "", False).create_container(name)
    return f"{scheme}://{name}" + ("@devstoreaccount1.dfs.core.windows.net" if scheme == "abfs" else "")


def put(uri, content):
    store, key = open_object(uri)
    store.write(key, content)


def real_endpoint(scheme, variables):
    """The address of the emulator of a cloud."""
    if scheme == "gs":
        return variables["STORAGE_EMULATOR_HOST"]
    return variables["AZURE_STORAGE_CONNECTION_STRING"].partition("BlobEndpoint=")[2].rpartition("/")[0]


def through(address, scheme, variables):
    """The same environment with another address of the emulator."""
    real = real_endpoint(scheme, variables)
    return {name: value.replace(real, address) for name, value in variables.items()}


def scheme_of(uri):
    return parse(uri).scheme
