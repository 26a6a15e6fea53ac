// Our mail beside that of nodemailer, both to the same SMTP server (STARTTLS, AUTH) and read by the same parser: envelope and
// parsed MIME.

import assert from "node:assert/strict";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import nodemailer from "nodemailer";
import PostalMime, { decodeWords } from "postal-mime";
import { SMTPServer } from "smtp-server";
import { certificate } from "./certificate.mjs";
import { accept, compare, start, until } from "./posthaste.mjs";

const LINES = ["Straße und ✓", ".a dot", "..two", "", "trailing  ", `${"long ".repeat(300)}end`];
const MAILS = {
  full: {
    subject: "Grüße an alle, 2 < 3 & 100% ✓, und noch mehr Worte, damit die Zeile umgebrochen werden muss: äöü",
    body: LINES.join("\n"),
    html: "<p>rich – ü</p>\n.\n<p>more</p>",
    to: ["Ann Müller <ann@example.com>", '"Lee, Bob" <bob@example.com>', "carol@bücher.example"],
    cc: ["Dave <dave@example.com>"],
    bcc: ["eve@example.com"],
    from: "Der Shop – Köln <shop@example.com>",
    replyTo: "Help <help@example.com>",
    headers: { "X-Order": "7", "X-Note": "ä ö ü", "List-Unsubscribe": `<https://example.com/u?a=${"b".repeat(120)}>` },
  },
  text: { subject: "plain", body: "one\ntwo", to: "ann@example.com", from: "shop@example.com" },
  html: { subject: "html", html: "<b>b</b>", to: "ann@example.com", from: "shop@example.com" },
  many: {
    subject: "many",
    body: "x",
    to: Array.from({ length: 200 }, (_, index) => `Recipient ${index} <r${index}@example.com>`),
    from: "shop@example.com",
  },
};

const captured = [];
const tls = certificate();
const server = new SMTPServer({
  ...tls,
  logger: false,
  onAuth: ({ username, password }, session, done) => {
    assert.ok(session.secure, "a password came in the clear");
    done(username === "shop" && password === "secret-1" ? null : new Error("unknown"), { user: username });
  },
  onData: async (stream, { envelope, transmissionType }, done) => {
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    captured.push(await normal(envelope, transmissionType, Buffer.concat(chunks)));
    done(null, "Ok: queued as 4F2A1");
  },
});
server.listen(0, "localhost");
await once(server.server, "listening");
const { port } = server.server.address();
const trusted = `${process.env.DATA}/trusted.pem`;
writeFileSync(trusted, tls.cert);
const intake = await start({
  SMTP__HOST: "localhost",
  SMTP__PORT: `${port}`,
  SMTP__USERNAME: "shop",
  SMTP__PASSWORD: "secret-1",
  SMTP__CA_FILE: trusted,
});
const transport = nodemailer.createTransport({
  host: "localhost",
  port,
  requireTLS: true,
  auth: { user: "shop", pass: "secret-1" },
  tls: { ca: tls.cert },
});

let failed = 0;
for (const [name, mail] of Object.entries(MAILS)) {
  await accept(intake, { eventId: `mail-${name}`, channel: "email", provider: "smtp", payload: mail });
  const ours = await until(() => captured.pop());
  assert.equal(ours.messageId, `<mail-${name}.smtp.0@example.com>`);
  const { body: text, ...rest } = mail;
  await transport.sendMail({ ...rest, text, messageId: ours.messageId });
  const theirs = await until(() => captured.pop());
  failed += compare(`mail ${name}`, ours, theirs) ? 0 : 1;
}
process.exit(failed === 0 ? 0 : 1);

/** A message in a form in which two can be compared. */
async function normal(envelope, transmissionType, bytes) {
  const raw = bytes.toString("latin1");
  assert.doesNotMatch(raw.replaceAll("\r\n", ""), /[\r\n]/, "an end of a line stands alone");
  const longest = Math.max(...raw.split("\r\n").map((line) => line.length));
  assert.ok(longest <= 998, `a line has ${longest} characters`);
  assert.doesNotMatch(raw, /eve@/, "a blind copy shows");
  const { headers, date, attachments, ...parsed } = await PostalMime.parse(bytes);
  assert.ok(Math.abs(Date.parse(date) - Date.now()) < 60_000, `it is of another time: ${date}`);
  const header = (key) => headers.find((found) => found.key === key)?.value;
  return {
    sender: envelope.mailFrom.address,
    recipients: envelope.rcptTo.map(({ address }) => address),
    transmissionType,
    type: header("content-type").split(";")[0],
    order: header("x-order"),
    note: decodeWords(header("x-note") ?? ""),
    unsubscribe: header("list-unsubscribe"),
    attachments: attachments.length,
    from: parsed.from,
    to: parsed.to,
    cc: parsed.cc,
    replyTo: parsed.replyTo,
    subject: parsed.subject,
    messageId: parsed.messageId,
    text: parsed.text?.trimEnd(),
    html: parsed.html?.trimEnd(),
  };
}
