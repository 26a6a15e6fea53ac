// Other people's clients against a running Posthaste: kafkajs (and kcat, where it is installed) read the topics, the
// Node MongoDB driver reads the documents, standardwebhooks verifies a webhook.
//
// Started by tests/it/foreign.rs, which says where everything is:
//   BOOTSTRAP, PREFIX, MONGODB_URI, DATABASE, INGESTION, WEBHOOK_SECRET

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import kafkajs from "kafkajs";
import lz4 from "lz4js";
import { MongoClient } from "mongodb";
import { Webhook } from "standardwebhooks";

// kafkajs brings gzip alone and asks for a codec for the rest: https://kafka.js.org/docs/producing#compression
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = kafkajs;
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});

const { BOOTSTRAP, PREFIX, MONGODB_URI, DATABASE, INGESTION, WEBHOOK_SECRET } = process.env;
const PATIENCE_MS = 60_000;
setTimeout(() => {
  console.error(`not done after ${2 * PATIENCE_MS} ms`);
  process.exit(1);
}, 2 * PATIENCE_MS).unref();

const event = await webhookIsVerified();
await topicsAreReadable(event);
await documentIsReadable(event);
kcatReads(event);
process.exit(0);

async function webhookIsVerified() {
  const receiver = createServer();
  receiver.listen(0, "127.0.0.1");
  await once(receiver, "listening");
  const { port } = receiver.address();
  const call = once(receiver, "request").then(async ([request, response]) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    response.writeHead(204).end();
    return { headers: request.headers, body: Buffer.concat(chunks).toString() };
  });
  const answer = await fetch(`${INGESTION}/event`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      channel: "webhook",
      payload: { url: `http://127.0.0.1:${port}/hook?a=1`, body: { order: 7, text: "naïve – ✓" } },
    }),
  });
  assert.equal(answer.status, 201, await answer.clone().text());
  const { eventId } = await answer.json();
  const { headers, body } = await call;
  const verified = new Webhook(WEBHOOK_SECRET).verify(body, headers);
  assert.deepEqual(verified, { order: 7, text: "naïve – ✓" });
  assert.throws(() => new Webhook(WEBHOOK_SECRET).verify(`${body} `, headers), /signature/i);
  receiver.close();
  console.log(`standardwebhooks: verified ${headers["webhook-id"]}`);
  return eventId;
}

async function topicsAreReadable(eventId) {
  const kafka = new Kafka({ brokers: [BOOTSTRAP], clientId: "foreign", logLevel: logLevel.ERROR });
  const consumer = kafka.consumer({ groupId: `${PREFIX}-foreign` });
  await consumer.connect();
  const topics = [`${PREFIX}.default`, `${PREFIX}.status`];
  await consumer.subscribe({ topics, fromBeginning: true });
  const seen = new Map();
  const done = new Promise((resolve) =>
    consumer.run({
      eachMessage: async ({ topic, message }) => {
        const value = JSON.parse(message.value.toString());
        if (value.delivery?.id === eventId) seen.set(topic, { key: message.key?.toString(), value });
        if (seen.size === topics.length) resolve();
      },
    }),
  );
  await within(done, `kafkajs to see the event on ${topics}`);
  const accepted = seen.get(topics[0]);
  assert.equal(accepted.key, eventId);
  assert.equal(accepted.value.delivery.status, "PENDING");
  assert.equal(accepted.value.event.payload.body.order, 7);
  const outcome = seen.get(topics[1]).value;
  assert.equal(outcome.delivery.status, "SENT");
  assert.equal(outcome.event, undefined);
  await consumer.disconnect();
  console.log(`kafkajs: read ${eventId} on ${topics.join(" and ")}`);
}

async function documentIsReadable(eventId) {
  const client = await MongoClient.connect(MONGODB_URI);
  const events = client.db(DATABASE).collection("events");
  const start = Date.now();
  let document;
  while (document?.state?.status !== "SENT") {
    assert.ok(Date.now() - start < PATIENCE_MS, `no SENT document: ${JSON.stringify(document)}`);
    document = await events.findOne({ _id: eventId });
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal(document.channel, "webhook");
  assert.equal(document.state.provider, "webhook");
  assert.ok(Object.keys(document.timeline).length >= 2);
  await client.close();
  console.log(`mongodb: read ${JSON.stringify(document.state)}`);
}

function kcatReads(eventId) {
  const topic = `${PREFIX}.default`;
  const kcat = spawnSync("kcat", ["-b", BOOTSTRAP, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k %s\n"], {
    encoding: "utf8",
    timeout: PATIENCE_MS,
  });
  if (kcat.error?.code === "ENOENT") {
    console.log("kcat: not installed, not tried (apt-get install kcat)");
    return;
  }
  assert.equal(kcat.status, 0, kcat.stderr);
  const line = kcat.stdout.split("\n").find((line) => line.startsWith(eventId));
  assert.ok(line, `kcat did not see ${eventId} on ${topic}`);
  JSON.parse(line.slice(eventId.length));
  console.log(`kcat: read ${eventId} on ${topic}`);
}

async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE_MS);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}
