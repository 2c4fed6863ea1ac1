// A question whose calls are run by the service: the client sees words, and what ran in one field more.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.AIGBB_URL}/v1`, apiKey: process.env.AIGBB_TOKEN, maxRetries: 0 });

const answer = await client.chat.completions.create({
  model: "aigbb",
  messages: [{ role: "user", content: process.env.QUESTION }],
});
const [choice] = answer.choices;
console.log(
  JSON.stringify({
    content: choice.message.content,
    finish: choice.finish_reason,
    total: answer.usage.total_tokens > 0,
    runs: answer.aigbb.rounds.flatMap((round) => round.runs).map((run) => [run.name, run.status]),
  }),
);
