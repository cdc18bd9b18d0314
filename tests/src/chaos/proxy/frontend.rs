//! What a client says to Postgres, read off the wire: which statement each of its messages prepares or runs, and within
//! which transaction.

use std::{collections::HashMap, sync::Arc};

/// The length of what every connection begins with, and the code in it for "may we encrypt?".
const OPENING: usize = 8;
const ASKS_FOR_ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];
/// Longer than any message of ours: what claims to be is something else.
const LONGEST: usize = 64 * 1024 * 1024;

/// What a message does with its statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Prepare,
    Run,
}

/// A message about a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub verb: Verb,
    /// The statement, with single blanks.
    pub sql: Arc<str>,
    /// What its transaction has run before, from its BEGIN on.
    pub transaction: Vec<Arc<str>>,
}

/// The client's side of one connection.
#[derive(Default)]
pub struct Frontend {
    opened: bool,
    /// It speaks something else.
    lost: bool,
    pending: Vec<u8>,
    prepared: HashMap<Vec<u8>, Arc<str>>,
    transaction: Vec<Arc<str>>,
}

impl Frontend {
    /// Takes what has come. The messages about statements that are complete now.
    pub fn read(&mut self, piece: &[u8]) -> Vec<Sent> {
        self.pending.extend_from_slice(piece);
        let mut sent = Vec::new();
        while !self.lost {
            let whole = if self.opened { self.message() } else { self.opening() };
            match whole {
                Some((tag, body)) => sent.extend(self.understand(tag, &body)),
                None => break,
            }
        }
        sent
    }

    fn opening(&mut self) -> Option<(u8, Vec<u8>)> {
        let length = self.length_at(0)?;
        let code = self.pending.get(4..OPENING)?.try_into().map(u32::from_be_bytes).ok()?;
        let body = self.take(0, length)?;
        self.opened = !ASKS_FOR_ENCRYPTION.contains(&code);
        Some((0, body))
    }

    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let tag = *self.pending.first()?;
        let length = self.length_at(1)?;
        Some((tag, self.take(1, length)?))
    }

    /// The length that a message has from here on, itself included.
    fn length_at(&mut self, start: usize) -> Option<usize> {
        let bytes = self.pending.get(start..start + 4)?.try_into().ok()?;
        let length = usize::try_from(u32::from_be_bytes(bytes)).ok()?;
        self.lost = !(4..LONGEST).contains(&length);
        (!self.lost).then_some(length)
    }

    /// What follows the length, once all of it has come.
    fn take(&mut self, start: usize, length: usize) -> Option<Vec<u8>> {
        let body = self.pending.get(start + 4..start + length)?.to_vec();
        self.pending.drain(..start + length);
        Some(body)
    }

    fn understand(&mut self, tag: u8, body: &[u8]) -> Option<Sent> {
        let mut strings = body.split(|byte| *byte == 0);
        match tag {
            b'Q' => Some(self.run(&text(strings.next()?))),
            b'P' => {
                let (name, sql) = (strings.next()?, text(strings.next()?));
                self.prepared.insert(name.to_owned(), Arc::clone(&sql));
                let transaction = self.transaction.clone();
                Some(Sent {
                    verb: Verb::Prepare,
                    sql,
                    transaction,
                })
            }
            // A portal, then the statement that it is for. Its Execute comes with it.
            b'B' => {
                let sql = self.prepared.get(strings.nth(1)?).cloned()?;
                Some(self.run(&sql))
            }
            _ => None,
        }
    }

    fn run(&mut self, sql: &Arc<str>) -> Sent {
        let begins = &**sql == "BEGIN";
        if begins {
            self.transaction.clear();
        }
        let sent = Sent {
            verb: Verb::Run,
            sql: Arc::clone(sql),
            transaction: self.transaction.clone(),
        };
        if matches!(&**sql, "COMMIT" | "ROLLBACK") {
            self.transaction.clear();
        } else if begins || !self.transaction.is_empty() {
            self.transaction.push(Arc::clone(sql));
        }
        sent
    }
}

fn text(bytes: &[u8]) -> Arc<str> {
    let text = String::from_utf8_lossy(bytes);
    text.split_whitespace().collect::<Vec<_>>().join(" ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn opening(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + OPENING).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    fn sent(verb: Verb, sql: &str, transaction: &[&str]) -> Sent {
        Sent {
            verb,
            sql: sql.into(),
            transaction: transaction.iter().map(|sql| Arc::from(*sql)).collect(),
        }
    }

    #[test]
    fn statements_are_told_with_their_transaction_however_they_are_cut() {
        let spoken = [
            opening(ASKS_FOR_ENCRYPTION[0], b""),
            opening(196_608, b"user\0roost\0\0"),
            message(b'P', b"s1\0INSERT\n  INTO flats\0\0\0"),
            message(b'S', b""),
            message(b'Q', b"BEGIN\0"),
            message(b'B', b"\0s1\0\0\0\0\0\0\0"),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
            message(b'Q', b"COMMIT\0"),
            message(b'B', b"\0s1\0\0\0\0\0\0\0"),
        ]
        .concat();
        let expected = [
            sent(Verb::Prepare, "INSERT INTO flats", &[]),
            sent(Verb::Run, "BEGIN", &[]),
            sent(Verb::Run, "INSERT INTO flats", &["BEGIN"]),
            sent(Verb::Run, "COMMIT", &["BEGIN", "INSERT INTO flats"]),
            sent(Verb::Run, "INSERT INTO flats", &[]),
        ];
        for length in [1, 5, 64, spoken.len()] {
            let mut frontend = Frontend::default();
            let told: Vec<Sent> = spoken.chunks(length).flat_map(|piece| frontend.read(piece)).collect();
            assert_eq!(told, expected, "pieces of {length}");
        }
    }

    #[test]
    fn another_protocol_is_left_alone() {
        let mut frontend = Frontend::default();
        assert_eq!(frontend.read(b"*1\r\n$4\r\nPING\r\n"), []);
        assert_eq!(frontend.read(b"*1\r\n$4\r\nPING\r\n"), []);
    }
}
