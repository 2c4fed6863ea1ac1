// Requests that are refused, and one that fails on the way.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.AIGBB_URL}/v1`, apiKey: process.env.AIGBB_TOKEN, maxRetries: 0 });
const messages = [{ role: "user", content: process.env.QUESTION }];

async function error(asking) {
  try {
    await asking();
    return null;
  } catch (found) {
    const known = found instanceof OpenAI.APIError;
    return { known, kind: found.constructor.name, status: found.status ?? null, code: found.code, message: found.message };
  }
}

const create = (more) => client.chat.completions.create({ model: "aigbb", messages, ...more });
const stranger = new OpenAI({ baseURL: client.baseURL, apiKey: "wrong", maxRetries: 0 });
console.log(
  JSON.stringify({
    model: await error(() => create({ model: "gpt-9" })),
    streamed: await error(() => create({ model: "gpt-9", stream: true })),
    choice: await error(() => create({ tool_choice: "sometimes" })),
    token: await error(() => stranger.models.list()),
    broken: await error(async () => {
      for await (const _ of await create({ stream: true }));
    }),
  }),
);
