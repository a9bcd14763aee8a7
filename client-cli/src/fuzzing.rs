//! Entries for fuzzing: what a collector sends, which is not trusted, becomes lines
//! that steer no terminal and JSON that says what was sent. Takes any bytes, panics
//! if that does not hold.

use jiff::{Timestamp, tz::TimeZone};
use netio::{printable, v1};
use prost::Message as _;
use serde_json::Value;

use crate::{
    commands::{info, list},
    failure::Origin,
    json,
    model::Tick,
    table::Table,
};

/// An answer: which one by the first byte, then the message.
pub fn answer(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => tick(message),
        1 => watches(message),
        _ => collector(message),
    }
}

fn tick(message: &[u8]) {
    let Ok(message) = v1::SubscribeResponse::decode(message) else {
        return;
    };
    let Ok(tick) = Tick::try_from(message) else {
        return;
    };
    let mut table = Table::new(TimeZone::UTC, true);
    table.make_room_for_parts();
    assert_shows(&table.lines(&tick));
    let samples = tick.samples.iter().flat_map(|sample| {
        let own = (
            &sample.watch_id,
            sample.sent.bytes,
            sample.received.bytes_total,
        );
        let parts = sample.parts.iter();
        let parts = parts.map(|it| (&sample.watch_id, it.sent.bytes, it.received.bytes_total));
        [own].into_iter().chain(parts).collect::<Vec<_>>()
    });
    let objects = objects(json::lines(&tick).map_err(|failure| failure.to_string()));
    let mut objects = objects.into_iter();
    for (watch_id, sent, received_total) in samples {
        let Some(object) = objects.next() else {
            unreachable!("each sample and part has a line");
        };
        assert_eq!(object["sequence"], tick.sequence);
        assert_eq!(object["watch_id"], watch_id.as_str());
        assert_eq!(object["sent_bytes"], sent);
        assert_eq!(object["received_bytes_total"], received_total);
    }
    assert_eq!(objects.next(), None);
}

fn watches(message: &[u8]) {
    let Ok(message) = v1::ListWatchesResponse::decode(message) else {
        return;
    };
    let rows: Vec<list::Row> = message.watches.into_iter().map(list::Row::from).collect();
    let table = list::table(&rows, Timestamp::UNIX_EPOCH);
    assert_shows(&table);
    assert_eq!(table.lines().count(), 1 + rows.len());
    for row in &rows {
        let objects = objects(json::line(row).map_err(|failure| failure.to_string()));
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0]["watch_id"], row.watch_id);
    }
}

fn collector(message: &[u8]) {
    let Ok(info) = v1::CollectorInfo::decode(message) else {
        return;
    };
    assert_shows(&info::for_people(&info, &Origin::InProcess));
    let value = info::for_programs(&info, &Origin::InProcess);
    let objects = objects(json::line(&value).map_err(|failure| failure.to_string()));
    assert_eq!(objects.len(), 1);
    for key in [
        "version",
        "generation",
        "programs",
        "blind_spots",
        "map_full",
    ] {
        assert_eq!(objects[0][key], value[key]);
    }
}

fn assert_shows(lines: &str) {
    let may_stay = |c| c == '\n' || printable::may_be_shown(c);
    assert!(lines.chars().all(may_stay), "{lines:?}");
}

/// The values that lines hold.
fn objects(lines: Result<String, String>) -> Vec<Value> {
    let parsed = lines.and_then(|lines| {
        assert_shows(&lines);
        let each = lines.lines().map(serde_json::from_str);
        each.collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    });
    match parsed {
        Ok(objects) => objects,
        Err(error) => unreachable!("what was written is JSON: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn fuzz_answer() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/answer");
        netio_collector::fuzzing::replay(&corpus, answer).unwrap();
    }
}
