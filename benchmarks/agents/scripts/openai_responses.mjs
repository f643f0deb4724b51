// An agent on the OpenAI SDK: the Responses API, streamed, with the whole conversation in each request.
import OpenAI from "openai";
import { TOOLS } from "./tools.mjs";

const client = new OpenAI();
const tools = Object.entries(TOOLS).map(([name, { description, parameters }]) => ({
  type: "function", name, description, parameters, strict: true,
}));
const input = [{ role: "user", content: process.argv[2] }];
for (let round = 0; round < 30; round++) {
  const response = await client.responses.stream({ model: "gpt-5", input, tools, store: false }).finalResponse();
  input.push(...response.output);
  const calls = response.output.filter((item) => item.type === "function_call");
  if (calls.length === 0) {
    console.log(response.output_text);
    break;
  }
  for (const call of calls) {
    const output = TOOLS[call.name].execute(JSON.parse(call.arguments));
    input.push({ type: "function_call_output", call_id: call.call_id, output });
  }
}
