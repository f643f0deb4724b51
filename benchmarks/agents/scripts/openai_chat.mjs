// An agent on the OpenAI SDK's tool runner: chat completions, streamed.
import OpenAI from "openai";
import { TOOLS } from "./tools.mjs";

const runner = new OpenAI().chat.completions.runTools({
  model: "gpt-4o",
  stream: true,
  messages: [{ role: "user", content: process.argv[2] }],
  tools: Object.entries(TOOLS).map(([name, { description, parameters, execute }]) => ({
    type: "function",
    function: { name, description, parameters, function: execute, parse: JSON.parse },
  })),
}, { maxChatCompletions: 30 });
console.log(await runner.finalContent());
