"""A store whose every step is controlled, and actors that take turns on it: for tests of who may write what, and when.

The actors run the real functions. Each is a greenlet that stops before every step that others could see (a listing, a
create, a write, a delete). A schedule runs the current actor until it ends or waits, and then the first that can go on;
each of its preemptions says "before step S, turn to actor A". An actor that never gets another turn has crashed; an
actor whose turn comes late was asleep.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO

import pyarrow.parquet as pq
from greenlet import getcurrent, greenlet

from camrobust.io.objects import Entry, MissingObjectError
from camrobust.results.counted import FILES_KEY


class ViolationError(AssertionError):
    """A step that the protocol forbids."""


class SteppedStore:
    """Bytes in memory; waits for its turn before every step that others can see.

    Attributes:
        turn: called with what is about to happen.
        told: called with a key and what the asking actor learned about it.
        watch: called with the key of an object that has just been created.
    """

    uri = "memory"

    def __init__(self, turn=lambda _: None, told=lambda *_: None, watch=lambda _: None):
        self.objects, self.turn, self.told, self.watch = {}, turn, told, watch

    def read(self, key, most=None):
        # Reading is no step of its own: objects of a run folder never change once they exist, except beats.
        found = self.objects.get(key)
        self.told(key, found)
        if found is None:
            raise MissingObjectError(f"there is no object {key}")
        return found

    def create(self, key, content):
        self.turn(f"create {key}")
        won = self.objects.setdefault(key, content) == content
        self.told(key, won)
        if won:
            self.watch(key)
        return won

    def write(self, key, content):
        self.turn(f"write {key}")
        if not key.startswith("beats/"):
            raise ViolationError(f"{key} is written where only creating is allowed")
        self.objects[key] = content

    def list(self, prefix=""):
        self.turn(f"list {prefix}")
        found = [Entry(key, len(self.objects[key])) for key in sorted(self.objects) if key.startswith(prefix)]
        self.told(prefix, found)
        return found

    def delete(self, key):
        self.turn(f"delete {key}")
        if key in live_keys(self.objects):
            raise ViolationError(f"{key} counts, and is deleted")
        self.objects.pop(key, None)

    def locate(self, key):
        return f"memory/{key}"


def newest(objects):
    """The newest lease's number and its document, by the text of docs/protocol.md; (0, {}) where there is none."""
    keys = sorted(key for key in objects if key.startswith("lease/"))
    return (int(keys[-1][6:14]), json.loads(objects[keys[-1]])) if keys else (0, {"accepts": []})


def counting(objects):
    """Commits that count, to their files and parts of images, by the text of docs/protocol.md."""
    number, lease = newest(objects)
    done = objects.get(f"done/{number:08}.json")
    listed = json.loads(done)["commits"] if done else lease["accepts"]
    found = {}
    for key in sorted(key for key in objects if key.startswith("commits/")):
        by_number = key.startswith(f"commits/{number:08}-") and "-kept-" not in key and not done
        if key not in listed and not by_number:
            continue
        files, parts = read_commit(objects[key])
        if all(len(objects.get(name, b"")) == size for name, size in files.items()):
            found[key] = (files, parts)
    return found


@lru_cache(10_000)
def read_commit(content):
    """The files of a commit and its parts of images."""
    table = pq.read_table(BytesIO(content))
    parts = list(zip(table["image_id"].to_pylist(), table["part"].to_pylist(), strict=True))
    return json.loads(table.schema.metadata[FILES_KEY]), parts


def live_keys(objects):
    """Keys that nobody may delete: the commits that count and all their files."""
    found = counting(objects)
    return set(found) | {name for files, _ in found.values() for name in files}


def counted(objects):
    """How often each part of an image counts."""
    return Counter(part for _, parts in counting(objects).values() for part in parts)


@dataclass
class Actor:
    """Something that takes steps.

    Attributes:
        name: its name, from which its random names follow.
        work: the function that it runs.
        learned: a hash of all that it was told; histories that look alike to it have the same hash.
        waiting_for: a condition that must hold before it goes on.
        outcome: the value it returned or the error it raised.
    """

    name: str
    work: object
    fiber: greenlet | None = None
    steps: int = 0
    learned: object = field(default_factory=hashlib.sha256)
    drawn: int = 0
    waiting_for: object = None
    outcome: object = None

    @property
    def ended(self):
        return self.fiber is not None and self.fiber.dead


class World:
    """Actors on one store, under a schedule."""

    def __init__(self, watch):
        self.store = SteppedStore(self._turn, self._told, watch)
        self.actors, self.main, self.current = [], getcurrent(), None
        self.outside = Actor("nobody", None)

    def add(self, name, work):
        """Add an actor; those added first get their turn first."""
        self.actors.append(Actor(name, work))
        return self.actors[-1]

    def _turn(self, what):
        here = getcurrent()
        if self.current is not None and here is self.current.fiber:
            self.main.switch(what)

    def _told(self, key, what):
        if self.current is not None:
            self.current.learned.update(f"{key} {what}".encode())

    def wait(self, condition):
        """For an actor: go on when the condition holds."""
        self.current.waiting_for = condition
        self.main.switch("wait")
        self.current.waiting_for = None

    def random(self, _=8):
        """Stands for random names: the same in every replay."""
        actor = self.current or self.outside
        actor.drawn += 1
        return hashlib.sha256(f"{actor.name}/{actor.drawn}".encode()).hexdigest()[:16]

    def able(self):
        """Actors that can take a step."""
        return [
            actor for actor in self.actors
            if not actor.ended and (actor.waiting_for is None or actor.waiting_for())
        ]  # fmt: skip

    def step(self, actor):
        """One step of an actor."""
        self.current = actor
        if actor.fiber is None:
            actor.fiber = greenlet(lambda: self._run(actor))
        actor.steps += 1
        actor.fiber.switch()
        self.current = None

    def _run(self, actor):
        try:
            actor.outcome = actor.work()
        except ViolationError:
            raise
        except Exception as error:  # noqa: BLE001 - the check at the end looks at the driver's error
            actor.outcome = error

    def state(self):
        """A hash of the store and of how far every actor is."""
        digest = hashlib.sha256()
        for key in sorted(self.store.objects):
            digest.update(key.encode() + b"\0" + self.store.objects[key] + b"\0")
        for actor in self.actors:
            digest.update(f"{actor.name} {actor.steps} {actor.ended} {actor.learned.hexdigest()}\0".encode())
        return digest.digest()


def replay(build, preemptions, before=lambda *_: False):
    """Run a world under a schedule until nobody can go on.

    Args:
        build: makes the world.
        preemptions: number of a step to the place of the actor that gets its turn before it.
        before: called with the world, the number of the step, and who will take it; True ends the run there.

    Returns:
        The world; for every step the places of the other actors that could have taken it; whether all ran to the end.
    """
    world, current, choices = build(), None, []
    while able := world.able():
        number = len(choices)
        if number in preemptions:
            current = world.actors[preemptions[number]]
        elif current not in able:
            current = able[0]
        if before(world, number, current):
            return world, choices, False
        choices.append([place for place, one in enumerate(world.actors) if one in able and one is not current])
        world.step(current)
    return world, choices, True


def explore(build, check, depth, at_state=lambda _: None):
    """Run every schedule with at most `depth` preemptions, each until it comes to a state seen before.

    Args:
        build: makes the world.
        check: takes the world at the end of a schedule.
        depth: most preemptions.
        at_state: takes the objects of every state of the store, once.

    Returns:
        Numbers of schedules, of steps, and of states of the store.
    """
    seen, stores, runs, steps = {}, set(), 0, 0
    waiting = [{}]
    while waiting:
        preemptions = waiting.pop()
        last, left = max(preemptions, default=-1), depth - len(preemptions)

        def before(world, number, actor, last=last, left=left):
            if number <= last:
                return False
            objects = frozenset((key, hash(content)) for key, content in world.store.objects.items())
            if objects not in stores:
                stores.add(objects)
                at_state(world.store.objects)
            state = (world.state(), actor.name)
            known = seen.get(state, -1) >= left
            seen[state] = max(left, seen.get(state, -1))
            return known

        world, choices, ended = replay(build, preemptions, before)
        runs, steps = runs + 1, steps + len(choices)
        if ended:
            check(world)
        if left:
            waiting += [
                {**preemptions, number: other}
                for number in range(last + 1, len(choices)) for other in choices[number]
            ]  # fmt: skip
    return runs, steps, len(stores)
