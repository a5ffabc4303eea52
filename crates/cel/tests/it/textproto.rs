//! A reader of protobuf's text form: enough for the conformance cases of CEL.

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// A number, a name of an enum, `true`.
    Word(String),
    /// Text or bytes.
    Text(Vec<u8>),
    Message(Vec<(String, Node)>),
}

impl Node {
    /// The fields of that name.
    pub(crate) fn all<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n Node> {
        let fields: &[(String, Node)] = match self {
            Self::Message(fields) => fields,
            _ => &[],
        };
        fields.iter().filter(move |it| it.0 == name).map(|it| &it.1)
    }

    pub(crate) fn get<'n>(&'n self, name: &'n str) -> Option<&'n Node> {
        self.all(name).last()
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Text(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Self::Message(_) => panic!("not text: {self:?}"),
        }
    }

    pub(crate) fn text_of(&self, name: &str) -> String {
        self.get(name).map(Self::text).unwrap_or_default()
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.text_of(name) == "true"
    }

    /// The only field, of a message that holds one of several.
    pub(crate) fn only(&self) -> Option<(&str, &Node)> {
        match self {
            Self::Message(fields) => fields.first().map(|it| (it.0.as_str(), &it.1)),
            _ => None,
        }
    }
}

pub(crate) fn read(text: &str) -> Node {
    let mut reader = Reader { rest: text };
    let message = reader.fields();
    assert!(reader.rest.is_empty(), "unread: {:.60}", reader.rest);
    message
}

struct Reader<'t> {
    rest: &'t str,
}

impl Reader<'_> {
    fn skip(&mut self) {
        loop {
            self.rest = self
                .rest
                .trim_start_matches(|it: char| it.is_whitespace() || matches!(it, ',' | ';'));
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |it| it.1);
        }
    }

    fn accept(&mut self, text: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn fields(&mut self) -> Node {
        let mut fields = Vec::new();
        loop {
            self.skip();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Node::Message(fields);
            }
            let name = self.name();
            self.accept(":");
            if self.accept("[") {
                while !self.accept("]") {
                    fields.push((name.clone(), self.value()));
                }
            } else {
                fields.push((name, self.value()));
            }
        }
    }

    fn name(&mut self) -> String {
        if self.accept("[") {
            let (name, rest) = self.rest.split_once(']').unwrap();
            self.rest = rest;
            return name.trim().to_owned();
        }
        self.word()
    }

    fn word(&mut self) -> String {
        let is_part = |it: char| it.is_alphanumeric() || matches!(it, '_' | '.' | '-' | '+');
        let end = self.rest.find(|it: char| !is_part(it)).unwrap_or(self.rest.len());
        assert!(end > 0, "no word: {:.60}", self.rest);
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    fn value(&mut self) -> Node {
        if self.accept("{") {
            let message = self.fields();
            assert!(self.accept("}"));
            return message;
        }
        if self.rest.starts_with(['"', '\'']) {
            let mut bytes = Vec::new();
            while self.rest.starts_with(['"', '\'']) {
                self.string(&mut bytes);
                self.skip();
            }
            return Node::Text(bytes);
        }
        Node::Word(self.word())
    }

    fn string(&mut self, out: &mut Vec<u8>) {
        let quote = self.rest.chars().next().unwrap();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, char)) = chars.next() {
            if char == quote {
                self.rest = &self.rest[at + 2..];
                return;
            }
            if char != '\\' {
                out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            let (_, letter) = chars.next().unwrap();
            let mut digits = |count: usize, first: Option<char>| -> String {
                first.into_iter().chain(chars.by_ref().take(count).map(|it| it.1)).collect()
            };
            let code = match letter {
                'n' => u32::from('\n'),
                't' => u32::from('\t'),
                'r' => u32::from('\r'),
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'v' => 11,
                'x' => u32::from_str_radix(&digits(2, None), 16).unwrap(),
                'u' | 'U' => {
                    let count = if letter == 'u' { 4 } else { 8 };
                    let code = u32::from_str_radix(&digits(count, None), 16).unwrap();
                    let char = char::from_u32(code).unwrap();
                    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                '0'..='7' => u32::from_str_radix(&digits(2, Some(letter)), 8).unwrap(),
                other => u32::from(other),
            };
            out.push(u8::try_from(code).unwrap());
        }
        panic!("a string has no end");
    }
}
