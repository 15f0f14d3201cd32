// Buys one unit, shows the order, and cancels it.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./seckill-api.d.ts";

type Pending = components["schemas"]["Pending"];
type Problem = components["schemas"]["Problem"];
type Answer<Body> = { response: Response; data?: Body; error?: Problem };

const [url, sale] = process.argv.slice(2);
const [namespace, name] = sale?.split("/") ?? [];
if (!url || !namespace || !name) {
  console.error("usage: npm start URL NAMESPACE/NAME, for example: npm start http://127.0.0.1:8080 shop/phones");
  process.exit(2);
}
const salePath = { namespace, name };
/** The access token of the buyer, for a sale whose `access` is not null. */
const token = process.env["SECKILL_TOKEN"];
const headers = token ? { Authorization: `Bearer ${token}` } : undefined;
const client = createClient<paths>({ baseUrl: url, headers });

/** These are not final: the same request, sent again, gets a final answer. */
const retried = new Set([202, 408, 429, 500, 502, 503, 504]);

/** Sends a request until its answer is final. A request without any answer may have succeeded, so it is sent again too. */
async function untilFinal<Body>(send: (signal: AbortSignal) => Promise<Answer<Body>>) {
  for (let wait = 100; ; wait = Math.min(wait * 2, 5000)) {
    const answer = await send(AbortSignal.timeout(12_000)).catch(() => undefined);
    if (answer && !retried.has(answer.response.status)) {
      if (!answer.response.ok) throw new Error(`${answer.response.status} ${answer.error?.code}: ${answer.error?.detail}`);
      return answer.data as Exclude<Body, Pending>; // only 202 has a Pending
    }
    console.error("again after", answer?.error?.code ?? answer?.response.status ?? "no answer");
    const seconds = Number(answer?.response.headers.get("retry-after"));
    await sleep((seconds * 1000 || wait) * (1 + Math.random() / 2));
  }
}

/** With the same key, a retry can't buy twice. */
function buy(key: string) {
  const params = { path: salePath, header: { "Idempotency-Key": key } };
  return untilFinal((signal) =>
    client.POST("/v1/sales/{namespace}/{name}/orders", { params, body: { quantity: 1 }, signal }),
  );
}

function show(order_no: string) {
  return untilFinal((signal) => client.GET("/v1/orders/{order_no}", { params: { path: { order_no } }, signal }));
}

function cancel(order_no: string) {
  return untilFinal((signal) => client.DELETE("/v1/orders/{order_no}", { params: { path: { order_no } }, signal }));
}

// One key for each purchase. A page stores it before the first attempt, so that it has the key after a reload.
const key = randomUUID();
const bought = await buy(key);
console.log("bought", bought.order_no);
console.log("shown", (await show(bought.order_no)).status);
console.log("now", (await cancel(bought.order_no)).status);
