// An agent on the Vercel AI SDK with the OpenAI provider, which uses the Responses API.
import { openai } from "@ai-sdk/openai";
import { jsonSchema, stepCountIs, streamText, tool } from "ai";
import { TOOLS } from "./tools.mjs";

const result = streamText({
  model: openai("gpt-5"),
  prompt: process.argv[2],
  stopWhen: stepCountIs(30),
  tools: Object.fromEntries(
    Object.entries(TOOLS).map(([name, { description, parameters, execute }]) => [
      name,
      tool({ description, inputSchema: jsonSchema(parameters), execute: async (input) => execute(input) }),
    ]),
  ),
});
console.log(await result.text);
