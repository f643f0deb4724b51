"""Planted data: JSON of a search and of a cluster, JSON lines, CSV, a query result."""

import csv
import io
import json
from random import Random
from typing import Any

from .plant import Plant, choose_places, choose_word, choose_words, format_time, make_sentence

CITIES = ("Oslo", "Lima", "Kyiv", "Quito", "Perth", "Osaka", "Turin", "Accra")


def search_results(rng: Random) -> Plant:
    """Return the response of a web search API."""
    results = [
        {
            "title": choose_words(rng, 6).title(),
            "url": f"https://{choose_word(rng)}.example/{choose_word(rng)}/{index}",
            "snippet": " ".join(make_sentence(rng) for _ in range(3)),
            "score": round(rng.uniform(0.2, 0.9), 4),
            "status": "fetched",
        }
        for index in range(260)
    ]
    first, second, third = choose_places(rng, len(results))
    results[first]["snippet"] = (
        f"{make_sentence(rng)} The Halvorsen bridge opened in 1937 and spans 412 metres. {make_sentence(rng)}"
    )
    results[second]["status"] = "fetch_failed: 504 from origin"
    results[third]["score"] = 97.25
    text = json.dumps({"query": "Halvorsen bridge", "count": len(results), "results": results}, indent=2)
    return Plant("search JSON", text, "How long is the Halvorsen bridge?", "412 metres", ("504 from origin", "97.25"))


def table(rng: Random) -> Plant:
    """Return a CSV file of orders."""
    rows = [
        [
            10_000 + index,
            format_time(index * 311)[:10],
            rng.choice(CITIES),
            f"{rng.gauss(80, 12):.2f}",
            rng.choice(["paid"] * 9 + ["open"]),
            choose_words(rng, 3),
        ]
        for index in range(2200)
    ]
    first, second, third = choose_places(rng, len(rows))
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


def nested_api(rng: Random) -> Plant:
    """Return the response of a cluster API: pods with containers, conditions and labels."""
    pods: list[dict[str, Any]] = [
        {
            "metadata": {
                "name": f"{choose_word(rng)}-{rng.randrange(16**5):05x}",
                "namespace": rng.choice(("shop", "core", "ops")),
                "labels": {"app": choose_word(rng), "tier": rng.choice(("web", "db"))},
            },
            "spec": {
                "nodeName": f"node-{rng.randint(1, 12)}",
                "containers": [
                    {
                        "name": "main",
                        "image": f"registry.example/{choose_word(rng)}:{rng.randint(1, 9)}.{rng.randint(0, 20)}",
                        "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}},
                    }
                ],
            },
            "status": {
                "phase": "Running",
                "podIP": f"10.0.{rng.randint(0, 9)}.{rng.randint(2, 250)}",
                "restartCount": rng.randint(0, 3),
                "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "Initialized", "PodScheduled")],
            },
        }
        for _ in range(330)
    ]
    first, second, third = choose_places(rng, len(pods))
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


def json_lines(rng: Random) -> Plant:
    """Return a structured log, one JSON object per line."""
    rows = [
        {
            "ts": format_time(index * 3),
            "level": "info",
            "svc": rng.choice(("api", "jobs")),
            "msg": f"{choose_words(rng, 3)} done",
            "ms": rng.randint(3, 60),
            "id": f"{rng.randrange(16**8):08x}",
        }
        for index in range(2400)
    ]
    first, second, third = choose_places(rng, len(rows))
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


def query_result(rng: Random) -> Plant:
    """Return a query result of psql."""
    rows = [
        [
            str(index),
            f"{choose_word(rng)}@{choose_word(rng)}.example",
            rng.choice(CITIES),
            str(rng.randint(1, 60)),
            rng.choice(("gold", "basic")),
        ]
        for index in range(1600)
    ]
    first, second, third = choose_places(rng, len(rows))
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
