// The same as a stream, read as tutorials do.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.AIGBB_URL}/v1`, apiKey: process.env.AIGBB_TOKEN, maxRetries: 0 });

const stream = await client.chat.completions.create({
  model: "aigbb",
  messages: [{ role: "user", content: process.env.QUESTION }],
  stream: true,
});
const parts = [];
let finish = null;
for await (const chunk of stream) {
  const text = chunk.choices[0]?.delta?.content;
  if (text) parts.push(text);
  finish = chunk.choices[0]?.finish_reason ?? finish;
}
console.log(JSON.stringify({ content: parts.join(""), pieces: parts.length > 1, finish }));
