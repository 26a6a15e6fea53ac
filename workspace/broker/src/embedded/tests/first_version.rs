//! A log file that the first version of its tables left.

use super::*;

/// The tables of the first version, as its programs made them.
const FIRST_TABLES: &str = "
    CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL) STRICT;
    CREATE TABLE partition (
        id INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, appended_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE record (place INTEGER PRIMARY KEY, appended_at INTEGER NOT NULL, key BLOB NOT NULL, value BLOB) STRICT;
    CREATE TABLE latest (
        partition INTEGER NOT NULL, key BLOB NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (partition, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tombstone (place INTEGER PRIMARY KEY, until INTEGER NOT NULL) STRICT;
    CREATE TABLE position (
        member_group TEXT NOT NULL, partition INTEGER NOT NULL, committed INTEGER NOT NULL, metadata TEXT NOT NULL,
        PRIMARY KEY (member_group, partition)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO topic VALUES (7, 'events.default', 2), (8, 'events.keys', 1), (9, 'events.of-a-later-version', 1);
    INSERT INTO partition VALUES (7 << 10, 0, 0), (7 << 10 | 1, 3, 20), (8 << 10, 2, 30), (9 << 10, 1, 30);
    INSERT INTO record VALUES ((7 << 10 | 1) << 40, 10, x'61', x'01'), ((7 << 10 | 1) << 40 | 2, 20, x'62', x'02'),
        ((8 << 10) << 40 | 1, 30, x'6b', x'03'), ((9 << 10) << 40, 30, x'6c', x'04');
    INSERT INTO latest VALUES (8 << 10, x'6b', (8 << 10) << 40 | 1);
    PRAGMA application_id = 0x50486c67;
    PRAGMA user_version = 1;
";

#[test]
fn a_log_of_the_first_version_goes_on_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::lock(dir.path()).unwrap();
    let before = rusqlite::Connection::open(folder.file()).unwrap();
    before.execute_batch(FIRST_TABLES).unwrap();
    // Stopped after its first partitions had moved.
    file::make_table(&before, 7 << 10).unwrap();
    drop(before);
    for _ in 0..2 {
        let log = Log::load(folder.open().unwrap(), "events", 1_000).unwrap();
        let records = |topic, number| {
            let partition = Partition { topic, number };
            let id = log.id(partition).unwrap();
            let (records, is_all) = log::read(log.connection(), (partition, id), (0, 9), 9, 999).unwrap();
            assert!(is_all);
            let short = |record: &Record| {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                (
                    record.offset,
                    record.appended_at,
                    key.unwrap()[0],
                    value.unwrap()[0],
                )
            };
            records.iter().map(short).collect::<Vec<_>>()
        };
        assert_eq!(records(Topic::Default, 0), []);
        assert_eq!(records(Topic::Default, 1), [(0, 10, b'a', 1), (2, 20, b'b', 2)]);
        assert_eq!(records(Topic::Keys, 0), [(1, 30, b'k', 3)]);
    }
    let mut log = Log::load(folder.open().unwrap(), "events", 1_000).unwrap();
    log.begin().unwrap();
    let record = log.append(&NewRecord::new(Topic::Keys, "k", "new"), 40).unwrap();
    log.commit().unwrap();
    assert_eq!(record.unwrap().offset, 2);
    let kept: i64 = log
        .connection()
        .query_row("SELECT count(*) FROM record_8192", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1, "the older one was compacted away");
}
