// What there is to ask.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.AIGBB_URL}/v1`, apiKey: process.env.AIGBB_TOKEN, maxRetries: 0 });

const found = [];
for await (const model of client.models.list()) found.push(model.id);
console.log(JSON.stringify(found));
