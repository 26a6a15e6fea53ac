// Our request to Apple beside that of node-apn, the most used SDK: over HTTP/2 and TLS, with a token of ours.

import assert from "node:assert/strict";
import { generateKeyPairSync, verify } from "node:crypto";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createSecureServer } from "node:http2";
import apn from "@parse/node-apn";
import { certificate } from "./certificate.mjs";
import { accept, compare, start, until } from "./posthaste.mjs";

const TOKEN = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";
const EXPIRES_AT = new Date(Math.floor(Date.now() / 1000) * 1000 + 3_600_000);
const PUSH = { title: "Title", body: "Grüße, 2 < 3 ✓", image: "https://example.com/a.png", link: "https://example.com/b" };

const captured = [];
const tls = certificate();
const apple = createSecureServer(tls, async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  captured.push(normal(request, Buffer.concat(chunks)));
  response.writeHead(200, { "apns-id": request.headers["apns-id"] });
  response.end();
});
apple.listen(0, "localhost");
await once(apple, "listening");
const { port } = apple.address();

const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const key = privateKey.export({ type: "pkcs8", format: "pem" });
const trusted = `${process.env.DATA}/trusted.pem`;
writeFileSync(trusted, tls.cert);
const settings = {
  APNS__BASE_URL: `https://localhost:${port}`,
  APNS__KEY: key,
  APNS__KEY_ID: "KEY1234567",
  APNS__TEAM_ID: "TEAM123456",
  APNS__BUNDLE_ID: "com.example.app",
};
const intake = await start(settings, { SSL_CERT_FILE: trusted });
await accept(intake, {
  eventId: "apns-1",
  channel: "push",
  provider: "apns",
  expiresAt: EXPIRES_AT.toISOString(),
  payload: { ...PUSH, token: TOKEN, data: { order: "7" } },
});
const ours = await until(() => captured.pop());

const provider = new apn.Provider({
  token: { key, keyId: "KEY1234567", teamId: "TEAM123456" },
  production: true,
  address: "localhost",
  port,
  ca: tls.cert,
});
const notification = new apn.Notification({
  topic: "com.example.app",
  id: ours["apns-id"],
  collapseId: ours["apns-collapse-id"],
  expiry: EXPIRES_AT.getTime() / 1000,
  priority: 10,
  pushType: "alert",
  alert: { title: PUSH.title, body: PUSH.body },
  mutableContent: 1,
  payload: { link: PUSH.link, image: PUSH.image, order: "7" },
});
const { sent, failed } = await provider.send(notification, TOKEN);
assert.equal(sent.length, 1, JSON.stringify(failed));
const theirs = captured.pop();
assert.match(ours["apns-id"], /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
process.exit(compare("apns", ours, theirs, { "content-type": "we say that it is JSON; Apple takes either" }) ? 0 : 1);

/** A request in a form in which two can be compared. */
function normal(request, bytes) {
  const headers = Object.fromEntries(Object.entries(request.headers).filter(([name]) => name.startsWith("apns-")));
  const [scheme, token] = request.headers.authorization.split(" ");
  const [header, claims, signature] = token.split(".");
  const signed = verify(
    "sha256",
    Buffer.from(`${header}.${claims}`),
    { key: publicKey, dsaEncoding: "ieee-p1363" },
    Buffer.from(signature, "base64url"),
  );
  assert.ok(signed, "the token's signature is not that of the key");
  const { iat, ...said } = JSON.parse(Buffer.from(claims, "base64url"));
  assert.ok(Math.abs(iat - Date.now() / 1000) < 60, `the token is of another time: ${iat}`);
  return {
    version: request.httpVersion,
    method: request.method,
    path: request.url,
    "content-type": request.headers["content-type"],
    authorization: { scheme, header: JSON.parse(Buffer.from(header, "base64url")), claims: said },
    ...headers,
    body: JSON.parse(bytes),
  };
}
