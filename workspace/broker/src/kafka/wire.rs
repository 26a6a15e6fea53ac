//! The few requests of Kafka's protocol that librdkafka does not make, over a connection of their own without encryption.
//!
//! Schemas: <https://kafka.apache.org/protocol>, each at its first flexible version, which every Kafka that Posthaste accepts has.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

/// How long a broker may take to be reached, and for each answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// No answer is anywhere near that long.
const ANSWER_BYTES_MAX: usize = 16 << 20;

const WRITE_TXN_MARKERS: (i16, i16) = (27, 1);
const DESCRIBE_PRODUCERS: (i16, i16) = (61, 0);
const DESCRIBE_TRANSACTIONS: (i16, i16) = (65, 0);
const LIST_TRANSACTIONS: (i16, i16) = (66, 0);

/// Partitions by the name of their topic.
pub(super) type Partitions = Vec<(String, Vec<i32>)>;

/// A transaction that is open in a partition, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Open {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i32,
    pub(super) coordinator_epoch: i32,
    /// Its first record.
    pub(super) start_offset: i64,
}

/// What a coordinator knows of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    /// Those of the transaction that it has not ended yet.
    pub(super) partitions: Partitions,
}

/// A connection to one broker.
pub(super) struct Wire {
    stream: TcpStream,
    correlation: i32,
}

impl Wire {
    pub(super) fn connect(host: &str, port: u16) -> io::Result<Self> {
        let mut last = io::Error::other("the name has no address");
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(TIMEOUT))?;
                    stream.set_write_timeout(Some(TIMEOUT))?;
                    stream.set_nodelay(true)?;
                    return Ok(Self {
                        stream,
                        correlation: 0,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Open transactions in those of these partitions that the broker leads.
    pub(super) fn open_transactions(&mut self, partitions: &Partitions) -> io::Result<Vec<Open>> {
        let mut body = Writer::default();
        body.partitions(partitions);
        body.tags();
        let answer = self.ask(DESCRIBE_PRODUCERS, &body)?;
        read(&answer, |answer| {
            answer.skip(4)?;
            let mut open = Vec::new();
            answer.each(|answer| {
                let topic = answer.text()?;
                answer.each(|answer| {
                    let partition = answer.i32()?;
                    answer.skip(2)?;
                    answer.text()?;
                    answer.each(|answer| {
                        let producer_id = answer.i64()?;
                        let producer_epoch = answer.i32()?;
                        answer.skip(4 + 8)?;
                        let (coordinator_epoch, start_offset) = (answer.i32()?, answer.i64()?);
                        if start_offset >= 0 {
                            open.push(Open {
                                topic: topic.clone(),
                                partition,
                                producer_id,
                                producer_epoch,
                                coordinator_epoch,
                                start_offset,
                            });
                        }
                        Some(())
                    })
                })
            })?;
            Some(open)
        })
    }

    /// The transactional ids of these producers whose coordinator the broker is.
    pub(super) fn transactional_ids(&mut self, producer_ids: &[i64]) -> io::Result<Vec<String>> {
        let mut body = Writer::default();
        body.count(0);
        body.count(producer_ids.len());
        for id in producer_ids {
            body.bytes(&id.to_be_bytes());
        }
        body.tags();
        let answer = self.ask(LIST_TRANSACTIONS, &body)?;
        read(&answer, |answer| {
            answer.skip(4)?;
            if answer.i16()? != 0 {
                // It is just learning what it coordinates.
                return None;
            }
            for _ in 0..answer.count()? {
                answer.text()?;
            }
            let mut ids = Vec::new();
            answer.each(|answer| {
                ids.push(answer.text()?);
                answer.skip(8)?;
                answer.text().map(|_| ())
            })?;
            Some(ids)
        })
    }

    /// What the broker, as their coordinator, knows of these ids.
    pub(super) fn transactions(&mut self, ids: &[String]) -> io::Result<Vec<Known>> {
        let mut body = Writer::default();
        body.count(ids.len());
        for id in ids {
            body.text(id);
        }
        body.tags();
        let answer = self.ask(DESCRIBE_TRANSACTIONS, &body)?;
        read(&answer, |answer| {
            answer.skip(4)?;
            let mut known = Vec::new();
            answer.each(|answer| {
                let error = answer.i16()?;
                let (id, state) = (answer.text()?, answer.text()?);
                answer.skip(4 + 8)?;
                let (producer_id, producer_epoch) = (answer.i64()?, answer.i16()?);
                let mut partitions = Vec::new();
                answer.each(|answer| {
                    let topic = answer.text()?;
                    let numbers = (0..answer.count()?)
                        .map(|_| answer.i32())
                        .collect::<Option<_>>()?;
                    partitions.push((topic, numbers));
                    Some(())
                })?;
                if error == 0 {
                    known.push(Known {
                        id,
                        state,
                        producer_id,
                        producer_epoch,
                        partitions,
                    });
                }
                Some(())
            })?;
            Some(known)
        })
    }

    /// Ends an open transaction in its partition, which the broker leads. Answers Kafka's error code; 0 is none.
    pub(super) fn end(&mut self, open: &Open, commit: bool) -> io::Result<i16> {
        let mut body = Writer::default();
        body.count(1);
        body.bytes(&open.producer_id.to_be_bytes());
        let epoch = i16::try_from(open.producer_epoch).map_err(io::Error::other)?;
        body.bytes(&epoch.to_be_bytes());
        body.bytes(&[u8::from(commit)]);
        body.partitions(&vec![(open.topic.clone(), vec![open.partition])]);
        body.bytes(&open.coordinator_epoch.to_be_bytes());
        body.tags();
        body.tags();
        let answer = self.ask(WRITE_TXN_MARKERS, &body)?;
        read(&answer, |answer| {
            let mut code = 0;
            answer.each(|answer| {
                answer.skip(8)?;
                answer.each(|answer| {
                    answer.text()?;
                    answer.each(|answer| {
                        answer.skip(4)?;
                        code = answer.i16()?;
                        Some(())
                    })
                })
            })?;
            Some(code)
        })
    }

    fn ask(&mut self, (key, version): (i16, i16), body: &Writer) -> io::Result<Vec<u8>> {
        self.correlation += 1;
        let mut frame = Writer::default();
        frame.bytes(&key.to_be_bytes());
        frame.bytes(&version.to_be_bytes());
        frame.bytes(&self.correlation.to_be_bytes());
        // No client id.
        frame.bytes(&(-1_i16).to_be_bytes());
        frame.tags();
        frame.bytes(&body.0);
        let length = u32::try_from(frame.0.len()).map_err(io::Error::other)?;
        self.stream
            .write_all(&[&length.to_be_bytes(), frame.0.as_slice()].concat())?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ANSWER_BYTES_MAX {
            return Err(io::Error::other("an answer that is too long"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        let head = read(&answer, |answer| {
            let correlation = answer.i32()?;
            answer.tags()?;
            Some((correlation, answer.0.len()))
        })?;
        if head.0 != self.correlation {
            return Err(io::Error::other("an answer to another request"));
        }
        Ok(answer.split_off(length - head.1))
    }
}

fn read<T>(bytes: &[u8], parse: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> io::Result<T> {
    parse(&mut Reader(bytes)).ok_or_else(|| io::Error::other("an answer that cannot be read"))
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The length of an array or text, plus one, seven bits a byte.
    fn count(&mut self, count: usize) {
        let mut rest = count + 1;
        while rest > 0x7f {
            self.0.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }

    fn tags(&mut self) {
        self.0.push(0);
    }

    fn partitions(&mut self, partitions: &Partitions) {
        self.count(partitions.len());
        for (topic, numbers) in partitions {
            self.text(topic);
            self.count(numbers.len());
            for number in numbers {
                self.bytes(&number.to_be_bytes());
            }
            self.tags();
        }
    }
}

/// What is left to read. None: there is less than there should be.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Of an array; none at all counts as empty. Never more than there are bytes left.
    fn count(&mut self) -> Option<usize> {
        let count = self.varint()?.saturating_sub(1);
        (count <= self.0.len()).then_some(count)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.count()?;
        let bytes = self.0.get(..length)?;
        self.0 = &self.0[length..];
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    fn tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()?;
            self.skip(length)?;
        }
        Some(())
    }

    /// An array of structures, each with its tags.
    fn each(&mut self, mut one: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        for _ in 0..self.count()? {
            one(self)?;
            self.tags()?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut writer = Writer::default();
        for length in [0, 1, 126, 127, 128, 20_000] {
            writer.text(&"x".repeat(length));
        }
        writer.tags();
        let mut reader = Reader(&writer.0);
        for length in [0, 1, 126, 127, 128, 20_000] {
            assert_eq!(reader.text().map(|text| text.len()), Some(length));
        }
        assert_eq!(reader.tags(), Some(()));
        assert_eq!(reader.tags(), None, "nothing is left");
    }

    #[test]
    fn an_answer_that_is_cut_off_or_lies_about_its_lengths_is_refused() {
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).count(), None);
        assert_eq!(Reader(&[9, b'x']).text(), None);
        assert_eq!(Reader(&[1, 0, 200]).tags(), None);
        assert_eq!(Reader(&[3, 0]).each(|reader| reader.i32().map(|_| ())), None);
    }
}
