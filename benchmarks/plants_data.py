"""Planted data: JSON of a search and of a cluster, JSON lines, CSV, a result of a database."""

import csv
import io
import json
from random import Random
from typing import Any

from .plant import Plant, choose_places, choose_word, choose_words, format_time, make_sentence

CITIES = ("Oslo", "Lima", "Kyiv", "Quito", "Perth", "Osaka", "Turin", "Accra")


def search_results(chance: Random) -> Plant:
    """Return what a web search API answers."""
    results = [
        {
            "title": choose_words(chance, 6).title(),
            "url": f"https://{choose_word(chance)}.example/{choose_word(chance)}/{at}",
            "snippet": " ".join(make_sentence(chance) for _ in range(3)),
            "score": round(chance.uniform(0.2, 0.9), 4),
            "status": "fetched",
        }
        for at in range(260)
    ]
    first, second, third = choose_places(chance, len(results))
    results[first]["snippet"] = (
        f"{make_sentence(chance)} The Halvorsen bridge opened in 1937 and spans 412 metres. {make_sentence(chance)}"
    )
    results[second]["status"] = "fetch_failed: 504 from origin"
    results[third]["score"] = 97.25
    text = json.dumps({"query": "Halvorsen bridge", "count": len(results), "results": results}, indent=2)
    return Plant("search JSON", text, "How long is the Halvorsen bridge?", "412 metres", ("504 from origin", "97.25"))


def table(chance: Random) -> Plant:
    """Return a CSV file of orders."""
    rows = [
        [
            10_000 + at,
            format_time(at * 311)[:10],
            chance.choice(CITIES),
            f"{chance.gauss(80, 12):.2f}",
            chance.choice(["paid"] * 9 + ["open"]),
            choose_words(chance, 3),
        ]
        for at in range(2200)
    ]
    first, second, third = choose_places(chance, len(rows))
    rows[first][3] = "77.131"
    rows[second][3] = "98450.00"
    rows[third][4] = "chargeback"
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["order_id", "day", "city", "amount", "status", "note"])
    writer.writerows(rows)
    return Plant(
        "CSV",
        out.getvalue(),
        f"What is the amount of order {10_000 + first}?",
        "77.131",
        ("98450.00", "chargeback"),
    )


def nested_api(chance: Random) -> Plant:
    """Return a cluster's API answer: pods with containers, conditions and labels."""
    pods: list[dict[str, Any]] = [
        {
            "metadata": {
                "name": f"{choose_word(chance)}-{chance.randrange(16**5):05x}",
                "namespace": chance.choice(("shop", "core", "ops")),
                "labels": {"app": choose_word(chance), "tier": chance.choice(("web", "db"))},
            },
            "spec": {
                "nodeName": f"node-{chance.randint(1, 12)}",
                "containers": [
                    {
                        "name": "main",
                        "image": f"registry.example/{choose_word(chance)}:{chance.randint(1, 9)}.{chance.randint(0, 20)}",
                        "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}},
                    }
                ],
            },
            "status": {
                "phase": "Running",
                "podIP": f"10.0.{chance.randint(0, 9)}.{chance.randint(2, 250)}",
                "restartCount": chance.randint(0, 3),
                "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "Initialized", "PodScheduled")],
            },
        }
        for _ in range(330)
    ]
    first, second, third = choose_places(chance, len(pods))
    pods[first]["metadata"]["name"] = "checkout-9f3ab"
    pods[first]["spec"]["containers"][0]["image"] = "registry.example/checkout:7.31-hotfix2"
    pods[second]["status"]["phase"] = "Failed: node ran out of inodes"
    pods[third]["status"]["restartCount"] = 4181
    text = json.dumps({"kind": "PodList", "items": pods})
    return Plant(
        "nested API JSON",
        text,
        "Which image does the pod checkout-9f3ab run?",
        "7.31-hotfix2",
        ("out of inodes", "4181"),
    )


def json_lines(chance: Random) -> Plant:
    """Return a structured log, one JSON object a line."""
    rows = [
        {
            "ts": format_time(at * 3),
            "level": "info",
            "svc": chance.choice(("api", "jobs")),
            "msg": f"{choose_words(chance, 3)} done",
            "ms": chance.randint(3, 60),
            "id": f"{chance.randrange(16**8):08x}",
        }
        for at in range(2400)
    ]
    first, second, third = choose_places(chance, len(rows))
    rows[first] |= {"id": "c0ffee42", "msg": "invoice 8891 rounded to 119.05"}
    rows[second] |= {"level": "error", "msg": "cannot rotate key k-17"}
    rows[third]["ms"] = 88_213
    text = "\n".join(json.dumps(row) for row in rows)
    return Plant(
        "JSON lines",
        text,
        "What happened to the request with id c0ffee42?",
        "rounded to 119.05",
        ("cannot rotate key k-17", "88213"),
    )


def query_result(chance: Random) -> Plant:
    """Return a result as psql prints it."""
    rows = [
        [
            str(at),
            f"{choose_word(chance)}@{choose_word(chance)}.example",
            chance.choice(CITIES),
            str(chance.randint(1, 60)),
            chance.choice(("gold", "basic")),
        ]
        for at in range(1600)
    ]
    first, second, third = choose_places(chance, len(rows))
    rows[first][1] = "vera.lindqvist@example.com"
    rows[first][2] = "Tromso"
    rows[second][3] = "19733"
    rows[third][4] = "revoked"
    line = "{:>6} | {:<30} | {:<8} | {:>6} | {:<8}".format
    text = "\n".join(
        [
            line("id", "email", "city", "logins", "plan"),
            "-------+-" + "-" * 30 + "-+----------+--------+---------",
            *(line(*row) for row in rows),
            f"({len(rows)} rows)",
        ]
    )
    return Plant("psql", text, "In which city does vera.lindqvist@example.com live?", "Tromso", ("19733", "revoked"))
