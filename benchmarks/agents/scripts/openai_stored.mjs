// An agent on the OpenAI SDK: the Responses API, streamed; the provider holds the conversation.
import OpenAI from "openai";
import { TOOLS } from "./tools.mjs";

const client = new OpenAI();
const tools = Object.entries(TOOLS).map(([name, { description, parameters }]) => ({
  type: "function", name, description, parameters, strict: true,
}));
let input = process.argv[2];
let previous_response_id;
for (let round = 0; round < 30; round++) {
  const body = { model: "gpt-5", input, tools, store: true, previous_response_id };
  const response = await client.responses.stream(body).finalResponse();
  previous_response_id = response.id;
  const calls = response.output.filter((item) => item.type === "function_call");
  if (calls.length === 0) {
    console.log(response.output_text);
    break;
  }
  input = calls.map((call) => ({
    type: "function_call_output",
    call_id: call.call_id,
    output: TOOLS[call.name].execute(JSON.parse(call.arguments)),
  }));
}
