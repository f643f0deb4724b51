// The tools of the SDKs' agents.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const parameters = (...names) => ({
  type: "object",
  properties: Object.fromEntries(names.map((name) => [name, { type: "string" }])),
  required: names,
  additionalProperties: false,
});

export const TOOLS = {
  run: {
    description: "Run a shell command.",
    parameters: parameters("command"),
    execute: ({ command }) => {
      const done = spawnSync("sh", ["-c", command], { encoding: "utf8" });
      return `exit status ${done.status}\n${done.stdout}${done.stderr}`;
    },
  },
  read_file: {
    description: "Read a file.",
    parameters: parameters("path"),
    execute: ({ path }) => readFileSync(path, "utf8"),
  },
  write_file: {
    description: "Write a file.",
    parameters: parameters("path", "content"),
    execute: ({ path, content }) => {
      writeFileSync(path, content);
      return "written";
    },
  },
};
