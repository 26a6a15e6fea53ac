// Our requests beside those that the providers' own SDKs make for the same message: method, path, authentication, body.
//
// Nothing leaves this machine: Posthaste is told that the providers are at a server of this script, and what the SDKs send to
// the real addresses is led there too.

import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import http, { createServer } from "node:http";
import https from "node:https";
import * as onesignal from "@onesignal/node-onesignal";
import sendgrid from "@sendgrid/mail";
import { WebClient } from "@slack/web-api";
import { initializeApp } from "firebase-admin/app";
import { getMessaging } from "firebase-admin/messaging";
import FormData from "form-data";
import Mailgun from "mailgun.js";
import { initClient as messagebird } from "messagebird";
import twilio from "twilio";
import { accept, compare, start, until } from "./posthaste.mjs";

const SID = "AC00000000000000000000000000000001";
const APP = "11111111-2222-4333-8444-555555555555";
const TOKEN = "0123456789abcdef:APA91bExample";
const TEXT = "Grüße, 2 < 3 & 100% ✓";
const MAIL = {
  subject: TEXT,
  body: "plain",
  html: "<p>rich</p>",
  to: ["Ann Lee <ann@example.com>", "bob@example.com"],
  cc: ["carol@example.com"],
  from: "Shop <shop@example.com>",
  replyTo: "help@example.com",
  headers: { "X-Order": "7" },
};
const PUSH = { title: "Title", body: TEXT, image: "https://example.com/a.png", link: "https://example.com/b" };
const BLOCKS = [{ type: "section", text: { type: "mrkdwn", text: "*bold*" } }];

// `differs`: what of ours is another on purpose, and why. Each must differ, so that the list stays true.
const PROVIDERS = {
  twilio: {
    host: "https://api.twilio.com",
    answer: [201, { sid: "SM1" }],
    event: { channel: "sms", payload: { message: TEXT, phoneNumber: "+4915155555555" } },
    sdk: () => twilio(SID, "token").messages.create({ to: "+4915155555555", from: "+15005550006", body: TEXT }),
  },
  messagebird: {
    host: "https://rest.messagebird.com",
    answer: [201, { id: "1" }],
    event: { channel: "sms", payload: { message: TEXT, phoneNumber: "+4915155555555" } },
    differs: { "body.recipients": "a list, as the reference has it; the SDK joins them with commas" },
    sdk: ({ body }) =>
      new Promise((resolve, reject) =>
        messagebird("key").messages.create(
          { originator: "Shop", recipients: ["4915155555555"], body: TEXT, datacoding: "auto", reference: body.reference },
          (error, answer) => (error ? reject(error) : resolve(answer)),
        ),
      ),
  },
  sendgrid: {
    host: "https://api.sendgrid.com",
    answer: [202, ""],
    event: { channel: "email", payload: MAIL },
    sdk: ({ body }) => {
      sendgrid.setApiKey("SG.key");
      const { body: text, headers, ...mail } = MAIL;
      return sendgrid.send({ ...mail, text, headers, customArgs: body.custom_args });
    },
  },
  mailgun: {
    host: "https://api.mailgun.net",
    answer: [200, { id: "<1@x>", message: "Queued" }],
    event: { channel: "email", payload: MAIL },
    differs: { type: "a form without files needs no multipart" },
    sdk: ({ body }) =>
      new Mailgun(FormData).client({ username: "api", key: "key" }).messages.create("mg.example.com", {
        from: MAIL.from,
        to: MAIL.to,
        cc: MAIL.cc,
        subject: MAIL.subject,
        text: MAIL.body,
        html: MAIL.html,
        "h:Reply-To": MAIL.replyTo,
        "h:X-Order": "7",
        "v:event_id": body["v:event_id"],
        "v:idempotency_key": body["v:idempotency_key"],
      }),
  },
  firebase: {
    host: "https://fcm.googleapis.com",
    answer: [200, { name: "projects/p/messages/1" }],
    event: { channel: "push", payload: { ...PUSH, token: TOKEN, data: { order: "7" } } },
    differs: { "body.message.webpush": "fcm_options, as the reference has it; the SDK writes fcmOptions, and both are read" },
    sdk: ({ body: { message } }) => {
      const credential = { getAccessToken: async () => ({ access_token: "access", expires_in: 3600 }) };
      return getMessaging(initializeApp({ credential, projectId: "p" })).send({
        token: TOKEN,
        notification: { title: PUSH.title, body: PUSH.body, imageUrl: PUSH.image },
        data: { order: "7", link: PUSH.link },
        android: { notification: { tag: message.android.notification.tag } },
        apns: { headers: message.apns.headers },
        webpush: { fcmOptions: { link: PUSH.link } },
      });
    },
  },
  onesignal: {
    host: "https://api.onesignal.com",
    answer: [200, { id: "1" }],
    event: { channel: "push", payload: { ...PUSH, token: APP, data: { order: "7" } } },
    sdk: ({ body }) => {
      const configuration = onesignal.createConfiguration({ restApiKey: "key" });
      const notification = Object.assign(new onesignal.Notification(), {
        app_id: APP,
        target_channel: "push",
        include_subscription_ids: [APP],
        headings: { en: PUSH.title },
        contents: { en: PUSH.body },
        url: PUSH.link,
        big_picture: PUSH.image,
        chrome_web_image: PUSH.image,
        ios_attachments: { image: PUSH.image },
        data: { order: "7" },
        name: body.name,
        custom_data: body.custom_data,
        idempotency_key: body.idempotency_key,
      });
      return new onesignal.DefaultApi(configuration).createNotification(notification);
    },
  },
  slack: {
    host: "https://slack.com",
    base: "/api",
    answer: [200, { ok: true, ts: "1.2", channel: "C1" }],
    event: { channel: "slack", payload: { channel: "C1", text: TEXT, blocks: BLOCKS, threadTs: "1700000000.000100" } },
    differs: { type: "JSON, which Slack takes as well: blocks and metadata need not be JSON in a form" },
    sdk: ({ body: { metadata } }) =>
      new WebClient("xoxb-token").chat.postMessage({
        channel: "C1",
        text: TEXT,
        blocks: BLOCKS,
        thread_ts: "1700000000.000100",
        metadata,
      }),
  },
};

// By `<provider>` ours, by `sdk.<provider>` its SDK's.
const captured = new Map();
const provider = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const [, who, ...rest] = request.url.split("/");
  let [status, answer] = [200, { access_token: "access", expires_in: 3600, token_type: "Bearer" }];
  if (who !== "token") {
    captured.set(who, await normal(request.method, `/${rest.join("/")}`, request.headers, Buffer.concat(chunks)));
    [status, answer] = PROVIDERS[who.replace("sdk.", "")].answer;
  }
  response.writeHead(status, { "content-type": "application/json", "x-message-id": "1" });
  response.end(answer && JSON.stringify(answer));
});
provider.listen(0, "127.0.0.1");
await once(provider, "listening");
const { port } = provider.address();
const at = `http://127.0.0.1:${port}`;
const intake = await start(settings());

let failed = 0;
for (const [name, { host, base = "", event, differs = {}, sdk }] of Object.entries(PROVIDERS)) {
  await accept(intake, { ...event, provider: name });
  const ours = await until(() => captured.get(name));
  ours.path = base + ours.path;
  const theirs = await caught(name, host, () => sdk(ours));
  failed += compare(name, ours, theirs, differs) ? 0 : 1;
}
process.exit(failed === 0 ? 0 : 1);

/** Takes what the SDK in `call` sends to `host`, by whichever of Node's ways it does. */
async function caught(name, host, call) {
  const { request } = https;
  const { fetch } = globalThis;
  const led = (url) => {
    assert.equal(url.origin, host, `${name}'s SDK calls another place`);
    return `${at}/sdk.${name}${url.pathname}${url.search}`;
  };
  https.request = (...called) => {
    const callback = called.find((one) => typeof one === "function");
    const options = called.find((one) => typeof one === "object" && !(one instanceof URL)) ?? {};
    const first = called[0];
    const path = options.path ?? "/";
    const whole = first === options ? `https://${options.hostname ?? options.host}${path}` : first;
    const url = new URL(led(new URL(whole)));
    const { method, headers } = options;
    return http.request(url, { method, headers }, callback);
  };
  globalThis.fetch = async (input, init) => {
    const original = new Request(input, init);
    const body = Buffer.from(await original.arrayBuffer());
    return fetch(led(new URL(original.url)), { method: original.method, headers: original.headers, body });
  };
  try {
    await call();
  } finally {
    https.request = request;
    globalThis.fetch = fetch;
  }
  const theirs = captured.get(`sdk.${name}`);
  assert.ok(theirs, `${name}'s SDK sent nothing`);
  return theirs;
}

/** A request in a form in which two can be compared. */
async function normal(method, path, headers, bytes) {
  const header = (name) => [headers[name]].flat()[0] ?? "";
  const contentType = header("content-type");
  const type = contentType.split(";")[0];
  const authorization = header("authorization");
  const [scheme, secret] = authorization.split(" ");
  const basic = scheme === "Basic" && Buffer.from(secret, "base64").toString();
  return {
    method,
    path: decodeURIComponent(path),
    authorization: basic ? `Basic ${basic}` : authorization,
    type,
    body: sorted(type === "application/json" ? JSON.parse(bytes) : fields(await form(contentType, bytes))),
  };
}

function form(contentType, bytes) {
  return new Response(bytes, { headers: { "content-type": contentType } }).formData();
}

/** A form as an object: a field that comes several times is a list, one that holds JSON is that. */
function fields(form) {
  const object = {};
  for (const [name, text] of form) {
    const value = /^[[{]/.test(text) ? JSON.parse(text) : text;
    object[name] = name in object ? [object[name], value].flat() : value;
  }
  return object;
}

/** Without what is absent, with names in order. */
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).filter(([, inner]) => inner !== undefined && inner !== null);
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, inner]) => [name, sorted(inner)]));
}

/** What Posthaste needs to know of the providers. */
function settings() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const account = {
    type: "service_account",
    project_id: "p",
    private_key_id: "1",
    private_key: privateKey.export({ type: "pkcs8", format: "pem" }),
    client_email: "a@p.iam.gserviceaccount.com",
    token_uri: `${at}/token`,
  };
  const settings = {
    TWILIO__ACCOUNT_SID: SID,
    TWILIO__AUTH_TOKEN: "token",
    TWILIO__FROM: "+15005550006",
    MESSAGEBIRD__ACCESS_KEY: "key",
    MESSAGEBIRD__ORIGINATOR: "Shop",
    SENDGRID__API_KEY: "SG.key",
    MAILGUN__API_KEY: "key",
    MAILGUN__DOMAIN: "mg.example.com",
    FIREBASE__SERVICE_ACCOUNT: JSON.stringify(account),
    ONESIGNAL__APP_ID: APP,
    ONESIGNAL__API_KEY: "key",
    SLACK__TOKEN: "xoxb-token",
  };
  for (const name of Object.keys(PROVIDERS)) settings[`${name.toUpperCase()}__BASE_URL`] = `${at}/${name}`;
  return settings;
}
