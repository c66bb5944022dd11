//! The few D-Bus messages that systemd is sent, and what of its answers matters (D-Bus specification,
//! "Message Protocol" and "Marshaling"). Little-endian, as whoever begins chooses.
//!
//! What this is not: a D-Bus library. It knows the five types of values that units' properties here
//! have, and reads of an answer only whether it is one.

/// Longer answers are none of systemd's to these calls.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The part of a message with which every other length is known.
pub(super) const FIXED_BYTES: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const PROTOCOL_VERSION: u8 = 1;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `s`
    Text(String),
    /// `b`
    Flag(bool),
    /// `t`
    Number(u64),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
}

/// A unit's property: its name and value.
pub(super) type Property = (&'static str, Value);

/// Arguments of a call, and their signature.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    signature: String,
    bytes: Bytes,
}

impl Arguments {
    /// One more: a string.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.signature.push('s');
        self.bytes.text(text);
        self
    }

    /// One more: true or false.
    pub(super) fn flag(mut self, flag: bool) -> Self {
        self.signature.push('b');
        self.bytes.u32(flag.into());
        self
    }

    /// One more: properties, `a(sv)`.
    pub(super) fn properties(mut self, properties: &[Property]) -> Self {
        self.signature.push_str("a(sv)");
        self.bytes.array(STRUCTURE, |bytes| {
            for (name, value) in properties {
                bytes.align(STRUCTURE);
                bytes.text(name);
                bytes.variant(value);
            }
        });
        self
    }

    /// One more: no auxiliary unit, `a(sa(sv))`.
    pub(super) fn no_units(mut self) -> Self {
        self.signature.push_str("a(sa(sv))");
        self.bytes.array(STRUCTURE, |_| {});
        self
    }

    /// The call of a method of systemd's manager with them.
    pub(super) fn call(&self, serial: u32, method: &str) -> Vec<u8> {
        let mut message = Bytes(vec![LITTLE_ENDIAN, METHOD_CALL, 0, PROTOCOL_VERSION]);
        message.u32(self.bytes.0.len() as u32);
        message.u32(serial);
        message.array(STRUCTURE, |fields| {
            fields.field(PATH, "o", "/org/freedesktop/systemd1");
            fields.field(INTERFACE, "s", "org.freedesktop.systemd1.Manager");
            fields.field(MEMBER, "s", method);
            fields.field(DESTINATION, "s", "org.freedesktop.systemd1");
            if !self.signature.is_empty() {
                fields.align(STRUCTURE);
                fields.0.push(SIGNATURE);
                fields.signature("g");
                fields.signature(&self.signature);
            }
        });
        message.align(STRUCTURE);
        message.0.extend_from_slice(&self.bytes.0);
        message.0
    }
}

/// What structures are aligned to.
const STRUCTURE: usize = 8;

/// Marshalled values. Alignment counts from the beginning, as in a message's header and body.
#[derive(Clone, Debug, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(size_of::<u32>());
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(signature.len() as u8);
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// The length does not count what aligns the first element.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.0.len() - size_of::<u32>();
        self.align(alignment);
        let first_at = self.0.len();
        elements(self);
        let length = (self.0.len() - first_at) as u32;
        self.0[length_at..length_at + size_of::<u32>()].copy_from_slice(&length.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Flag(flag) => {
                self.signature("b");
                self.u32((*flag).into());
            }
            Value::Number(number) => {
                self.signature("t");
                self.align(size_of::<u64>());
                self.0.extend(number.to_le_bytes());
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(size_of::<u32>(), |bytes| {
                    numbers.iter().for_each(|number| bytes.u32(*number));
                });
            }
            Value::Bytes(all) => {
                self.signature("ay");
                self.array(1, |bytes| bytes.0.extend(all));
            }
        }
    }

    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.align(STRUCTURE);
        self.0.push(code);
        self.signature(kind);
        self.text(text);
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// It is not, by the name of an error.
    Refused(String),
    /// Something else: an answer to another call, or a signal.
    Foreign,
}

/// How long a message is that begins like this; `None` for what is none.
pub(super) fn length(fixed: &[u8; FIXED_BYTES]) -> Option<usize> {
    let number = |at: usize| u32_at(fixed, at).and_then(|number| usize::try_from(number).ok());
    if fixed[0] != LITTLE_ENDIAN {
        return None;
    }
    let fields = number(12)?.checked_next_multiple_of(STRUCTURE)?;
    let length = FIXED_BYTES.checked_add(fields)?.checked_add(number(4)?)?;
    (length <= MAX_ANSWER_BYTES).then_some(length)
}

/// What a whole message says of the call with this serial; `None` for what is not to be understood.
pub(super) fn answer(message: &[u8], serial: u32) -> Option<Answer> {
    let end = FIXED_BYTES.checked_add(usize::try_from(u32_at(message, 12)?).ok()?)?;
    let mut fields = Fields { message: message.get(..end)?, at: FIXED_BYTES };
    let (mut answers, mut error) = (None, None);
    while let Some(field) = fields.next_field() {
        match field? {
            (REPLY_SERIAL, Field::Number(number)) => answers = Some(number),
            (ERROR_NAME, Field::Text(name)) => error = Some(name),
            _ => {}
        }
    }
    if answers != Some(serial) {
        return Some(Answer::Foreign);
    }
    match *message.get(1)? {
        METHOD_RETURN => Some(Answer::Done),
        ERROR => Some(Answer::Refused(error?)),
        _ => Some(Answer::Foreign),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(size_of::<u32>())?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

enum Field {
    Number(u32),
    Text(String),
}

/// The fields of a header, one after the other.
struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    /// `Some(None)` for one that is not to be understood.
    fn next_field(&mut self) -> Option<Option<(u8, Field)>> {
        self.at = self.at.next_multiple_of(STRUCTURE);
        (self.at < self.message.len()).then(|| self.read())
    }

    fn read(&mut self) -> Option<(u8, Field)> {
        let code = self.take(1)?[0];
        let kind = self.short_text()?;
        let field = match kind.as_str() {
            "u" => Field::Number(self.number()?),
            "s" | "o" => {
                let length = usize::try_from(self.number()?).ok()?;
                let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
                self.take(1)?;
                Field::Text(text)
            }
            "g" => Field::Text(self.short_text()?),
            _ => return None,
        };
        Some((code, field))
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.message.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn short_text(&mut self) -> Option<String> {
        let length = self.take(1)?[0].into();
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn number(&mut self) -> Option<u32> {
        self.at = self.at.next_multiple_of(size_of::<u32>());
        Some(u32::from_le_bytes(self.take(size_of::<u32>())?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `busctl` writes it, by hand from the specification.
    #[test]
    fn a_call_is_laid_out_as_the_specification_has_it() {
        let call = Arguments::default().text("a.scope").call(7, "ResetFailedUnit");
        assert_eq!(call[..16], *b"l\x01\0\x01\x0c\0\0\0\x07\0\0\0\x9f\0\0\0");
        assert_eq!(call[16..20], *b"\x01\x01o\0");
        assert_eq!(call[call.len() - 12..], *b"\x07\0\0\0a.scope\0");
        assert_eq!(call.len() % 8, 12 % 8);
        let at = call.windows(8).position(|w| w == b"\x08\x01g\0\x01s\0\0").unwrap();
        assert_eq!(at % 8, 0);
    }

    #[test]
    fn properties_are_an_array_of_aligned_structures() {
        let properties = [
            ("A", Value::Flag(true)),
            ("B", Value::Number(1 << 40)),
            ("C", Value::Numbers(vec![5, 6])),
            ("D", Value::Text("d".to_owned())),
        ];
        let arguments = Arguments::default().properties(&properties).no_units();
        assert_eq!(arguments.signature, "a(sv)a(sa(sv))");
        let expected: &[u8] = b"\x52\0\0\0\0\0\0\0\
            \x01\0\0\0A\0\x01b\0\0\0\0\x01\0\0\0\
            \x01\0\0\0B\0\x01t\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\
            \x01\0\0\0C\0\x02au\0\0\0\x08\0\0\0\x05\0\0\0\x06\0\0\0\
            \x01\0\0\0D\0\x01s\0\0\0\0\x01\0\0\0d\0\0\0\
            \0\0\0\0";
        assert_eq!(arguments.bytes.0, expected);
    }

    fn reply(kind: u8, fields: impl FnOnce(&mut Bytes)) -> Vec<u8> {
        let mut message = Bytes(vec![LITTLE_ENDIAN, kind, 0, 1]);
        message.u32(0);
        message.u32(1);
        message.array(STRUCTURE, fields);
        message.align(STRUCTURE);
        message.0
    }

    fn serial(fields: &mut Bytes, serial: u32) {
        fields.align(STRUCTURE);
        fields.0.push(REPLY_SERIAL);
        fields.signature("u");
        fields.u32(serial);
    }

    #[test]
    fn an_answer_is_the_calls_or_somebody_elses() {
        let done = reply(METHOD_RETURN, |fields| serial(fields, 3));
        assert_eq!(length(done[..16].try_into().unwrap()), Some(done.len()));
        assert_eq!(answer(&done, 3), Some(Answer::Done));
        assert_eq!(answer(&done, 4), Some(Answer::Foreign));
        let refused = reply(ERROR, |fields| {
            fields.field(ERROR_NAME, "s", "org.example.No");
            serial(fields, 3);
        });
        assert_eq!(answer(&refused, 3), Some(Answer::Refused("org.example.No".to_owned())));
        assert_eq!(
            answer(&reply(4, |fields| fields.field(MEMBER, "s", "Reloading")), 3),
            Some(Answer::Foreign)
        );
    }

    #[test]
    fn what_is_cut_or_false_is_no_answer() {
        let done = reply(METHOD_RETURN, |fields| serial(fields, 3));
        for end in 0..24 {
            assert_eq!(answer(&done[..end], 3), None, "{end}");
        }
        assert_eq!(length(b"l\x02\0\x01\xff\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff"), None);
        assert_eq!(length(b"B\x02\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0"), None);
    }
}
