// An agent on the Anthropic SDK's tool runner, streamed.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { TOOLS } from "./tools.mjs";

const runner = new Anthropic().beta.messages.toolRunner({
  model: "claude-sonnet-5",
  max_tokens: 4096,
  stream: true,
  messages: [{ role: "user", content: process.argv[2] }],
  tools: Object.entries(TOOLS).map(([name, { description, parameters, execute }]) =>
    betaTool({ name, description, inputSchema: parameters, run: execute }),
  ),
});
let text = "";
for await (const stream of runner) text = await stream.finalText().catch(() => "");
console.log(text);
