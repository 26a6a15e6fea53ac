//! What the providers of email are sent: the fullest and the barest request of each, less the credentials.

use expect_test::expect;
use posthaste_event::Channel;

use super::requests::sends;

#[test]
fn sendgrid() {
    sends(
        "sendgrid",
        Channel::Email,
        expect![[r#"
            POST https://api.sendgrid.com/v3/mail/send
            content-type: application/json
            {
              "attachments": [
                {
                  "content": "ZmlsZQ==",
                  "disposition": "attachment",
                  "filename": "Rechnung für \"Ann\".txt",
                  "type": "text/plain"
                },
                {
                  "content": "ZmlsZQ==",
                  "content_id": "logo@1",
                  "disposition": "inline",
                  "filename": "Rechnung für \"Ann\".txt",
                  "type": "text/plain"
                }
              ],
              "content": [
                {
                  "type": "text/plain",
                  "value": "text"
                },
                {
                  "type": "text/html",
                  "value": "<p>text</p>"
                }
              ],
              "custom_args": {
                "event_id": "01890000-0000-7000-8000-000000000000",
                "idempotency_key": "01890000-0000-7000-8000-000000000000:email:0"
              },
              "from": {
                "email": "sender@example.com",
                "name": "Sender"
              },
              "headers": {
                "X-Order": "1"
              },
              "personalizations": [
                {
                  "bcc": [
                    {
                      "email": "d@example.com"
                    }
                  ],
                  "cc": [
                    {
                      "email": "c@example.com"
                    }
                  ],
                  "to": [
                    {
                      "email": "a@example.com"
                    },
                    {
                      "email": "b@example.com",
                      "name": "B"
                    }
                  ]
                }
              ],
              "reply_to": {
                "email": "e@example.com"
              },
              "subject": "subject"
            }

            POST https://api.sendgrid.com/v3/mail/send
            content-type: application/json
            {
              "content": [
                {
                  "type": "text/plain",
                  "value": "text"
                }
              ],
              "custom_args": {
                "event_id": "01890000-0000-7000-8000-000000000000",
                "idempotency_key": "01890000-0000-7000-8000-000000000000:email:0"
              },
              "from": {
                "email": "sender@example.com",
                "name": "Sender"
              },
              "personalizations": [
                {
                  "to": [
                    {
                      "email": "a@example.com"
                    }
                  ]
                }
              ],
              "subject": "subject"
            }"#]],
    );
}

#[test]
fn mailgun() {
    sends(
        "mailgun",
        Channel::Email,
        expect![[r#"
            POST https://api.mailgun.net/v3/sandbox.example.com/messages
            content-type: multipart/form-data; boundary=BOUNDARY
            --BOUNDARY
            Content-Disposition: form-data; name="bcc"

            d@example.com
            --BOUNDARY
            Content-Disposition: form-data; name="cc"

            c@example.com
            --BOUNDARY
            Content-Disposition: form-data; name="from"

            Sender <sender@example.com>
            --BOUNDARY
            Content-Disposition: form-data; name="h:X-Order"

            1
            --BOUNDARY
            Content-Disposition: form-data; name="h:Reply-To"

            e@example.com
            --BOUNDARY
            Content-Disposition: form-data; name="html"

            <p>text</p>
            --BOUNDARY
            Content-Disposition: form-data; name="subject"

            subject
            --BOUNDARY
            Content-Disposition: form-data; name="text"

            text
            --BOUNDARY
            Content-Disposition: form-data; name="to"

            a@example.com
            --BOUNDARY
            Content-Disposition: form-data; name="to"

            B <b@example.com>
            --BOUNDARY
            Content-Disposition: form-data; name="v:event_id"

            01890000-0000-7000-8000-000000000000
            --BOUNDARY
            Content-Disposition: form-data; name="v:idempotency_key"

            01890000-0000-7000-8000-000000000000:email:0
            --BOUNDARY
            Content-Disposition: form-data; name="attachment"; filename="Rechnung für %22Ann%22.txt"
            Content-Type: text/plain

            file
            --BOUNDARY
            Content-Disposition: form-data; name="inline"; filename="logo@1"
            Content-Type: text/plain

            file
            --BOUNDARY--


            POST https://api.mailgun.net/v3/sandbox.example.com/messages
            content-type: application/x-www-form-urlencoded
              from = Sender <sender@example.com>
              subject = subject
              text = text
              to = a@example.com
              v:event_id = 01890000-0000-7000-8000-000000000000
              v:idempotency_key = 01890000-0000-7000-8000-000000000000:email:0"#]],
    );
}
