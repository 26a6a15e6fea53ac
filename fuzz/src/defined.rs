//! What tenants define, and what they send to many: records of the topics of definitions and broadcasts.

use posthaste_event::{
    Value,
    broadcast::{Broadcast, BroadcastGlance, BroadcastRecord},
    definition::{Definition, Key},
};

/// A record of the topic of broadcasts. Who glances at it sees what who reads it sees, and a chunk's events are events.
pub fn broadcast(data: &[u8]) -> bool {
    if let Ok(key) = std::str::from_utf8(data) {
        let _id = Broadcast::read_key(key);
    }
    let glance = BroadcastGlance::decode(data);
    let Ok(record) = BroadcastRecord::decode(data) else {
        return false;
    };
    let encoded = record.encode().unwrap();
    let again = BroadcastRecord::decode(&encoded).unwrap();
    assert_eq!(again.encode().unwrap(), encoded, "a second time changes nothing");
    match (record, glance.unwrap()) {
        (
            BroadcastRecord::Chunk(chunk),
            BroadcastGlance::Chunk {
                id,
                index,
                recipients,
            },
        ) => {
            assert_eq!(
                (&id, index, recipients),
                (&chunk.id, chunk.index, chunk.recipients)
            );
            let Ok(works) = chunk.events() else {
                return false;
            };
            for work in &works {
                let value = Value::Work(work.clone());
                assert_eq!(Value::decode(&value.encode().unwrap()).unwrap(), value);
            }
            !works.is_empty()
        }
        (BroadcastRecord::Progress(read), BroadcastGlance::Progress(seen)) => {
            assert_eq!(read, seen);
            true
        }
        (BroadcastRecord::Dropped { id }, BroadcastGlance::Dropped { id: seen }) => {
            assert_eq!(id, seen);
            true
        }
        (read, seen) => panic!("{read:?} is seen as {seen:?}"),
    }
}

/// A record of the topic of definitions: its key up to the first end of a line, then its value.
pub fn definition(data: &[u8]) -> bool {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (key, value) = data.split_at(end);
    let key = Key::read(key);
    if let Ok(key) = &key {
        assert_eq!(Key::read(key.encode().as_bytes()).as_ref(), Ok(key));
    }
    let Ok(definition) = Definition::decode(value) else {
        return false;
    };
    let encoded = definition.encode().unwrap();
    let again = Definition::decode(&encoded).unwrap();
    assert_eq!(
        (again.version, again.tag()),
        (definition.version, definition.tag())
    );
    assert_eq!(again.encode().unwrap(), encoded, "a second time changes nothing");
    key.is_ok()
}
