// The client's own helpers: runTools, plain and streamed, and stream.
import OpenAI from "openai";
import { run, tools } from "./weather.mjs";

const client = new OpenAI({ baseURL: `${process.env.AIGBB_URL}/v1`, apiKey: process.env.AIGBB_TOKEN, maxRetries: 0 });

const request = (door) => ({
  model: "aigbb",
  messages: [{ role: "user", content: `${process.env.QUESTION} ${door}` }],
});
const runnable = tools.map(({ type, function: description }) => ({
  type,
  function: { ...description, parse: JSON.parse, function: (given) => run(description.name, given) },
}));

const plain = client.chat.completions.runTools({ ...request("runTools"), tools: runnable });
const ran = { content: await plain.finalContent(), roles: plain.messages.map((each) => each.role) };

const streaming = client.chat.completions.runTools({ ...request("runTools streamed"), tools: runnable, stream: true });
const pieces = [];
streaming.on("content", (text) => pieces.push(text));
const streamed = {
  content: await streaming.finalContent(),
  pieces: pieces.join(""),
  roles: streaming.messages.map((each) => each.role),
};

const completion = await client.chat.completions.stream(request("stream")).finalChatCompletion();
const helped = { content: completion.choices[0].message.content, finish: completion.choices[0].finish_reason };
console.log(JSON.stringify({ ran, streamed, helped }));
