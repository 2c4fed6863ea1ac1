// Tools of one's own, with the loop that tutorials show.
import OpenAI from "openai";
import { run, tools } from "./weather.mjs";

const client = new OpenAI({ baseURL: `${process.env.AIGBB_URL}/v1`, apiKey: process.env.AIGBB_TOKEN, maxRetries: 0 });

const messages = [{ role: "user", content: process.env.QUESTION }];
let message;
do {
  const response = await client.chat.completions.create({ model: "aigbb", messages, tools });
  message = response.choices[0].message;
  messages.push(message);
  for (const call of message.tool_calls ?? []) {
    const content = run(call.function.name, JSON.parse(call.function.arguments));
    messages.push({ role: "tool", tool_call_id: call.id, content });
  }
} while (message.tool_calls?.length);
console.log(JSON.stringify({ content: message.content, roles: messages.map((each) => each.role) }));
