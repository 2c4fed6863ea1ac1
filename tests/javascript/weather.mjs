// What the scripts bring along as tools of their own.
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

export const tools = [
  { type: "function", function: { name: "weather", description: "The weather in a city.", parameters } },
];

export function run(name, { city }) {
  if (name !== "weather") throw new Error(`${name} is not a tool of this script`);
  return `sunny in ${city}`;
}
