//! Lists: the objects of one moment, shared by all who read that moment, and pieces of their text, each made once for all
//! who send it at a time.
//!
//! A thousand informers that begin together hold one list of objects, not a thousand, and send the same bytes. Text is kept
//! while somebody sends it; that of small pages a little longer ([`Pages`]). It knows no selectors.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use apimachinery::obj::Obj;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::cache::{Change, write_frame};
use crate::leaves::Row;

/// How large one piece of text is, in bytes; it may be larger by one object.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
/// What an object's text has besides what is stored, in bytes: its version, and what stands around it.
const ROOM_BYTES: usize = 96;
/// The largest page whose text is kept when nobody sends it, in bytes.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// How much all pages have that are kept so.
const PAGES_BYTES: usize = 4 << 20;

/// In which form objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// As items of a list, which have no kind and version of their own.
    Items,
    /// As items that say what they are.
    WholeItems,
    /// As watch frames of type `ADDED`.
    Frames,
}

/// The objects of one moment.
#[derive(Debug, Default)]
pub struct Listing {
    objects: Objects,
    /// Pieces of text by form and first object; nothing where nobody else reads this list.
    pieces: Option<Mutex<BTreeMap<(Form, usize), Piece>>>,
    /// The text stays as long as the list does.
    keeps: bool,
}

/// Text of some objects in a row.
#[derive(Debug)]
struct Piece {
    /// The object after the last.
    end: usize,
    text: Text,
}

#[derive(Debug)]
enum Text {
    Kept(Bytes),
    /// While somebody sends it.
    Sent(Weak<Vec<u8>>),
}

/// Bytes that are freed with the last who sends them.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Text {
    fn get(&self) -> Option<Bytes> {
        match self {
            Self::Kept(bytes) => Some(bytes.clone()),
            Self::Sent(text) => text.upgrade().map(|text| Bytes::from_owner(Shared(text))),
        }
    }
}

/// Who has the objects.
#[derive(Debug)]
enum Objects {
    Own(Vec<Arc<Obj>>),
    /// The cache, too.
    Shared(Row),
}

impl Default for Objects {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl From<Vec<Arc<Obj>>> for Listing {
    fn from(objects: Vec<Arc<Obj>>) -> Self {
        Self { objects: Objects::Own(objects), ..Self::default() }
    }
}

impl Listing {
    /// All objects of a moment, for others too.
    pub(crate) fn all(objects: Row) -> Self {
        Self { objects: Objects::Shared(objects), pieces: Some(Mutex::default()), keeps: false }
    }

    /// The first objects of a list, for others too. Their text is kept with them, unless it is large.
    pub(crate) fn page(objects: Vec<Arc<Obj>>) -> Self {
        let bytes = objects.iter().map(|it| it.stored().len()).sum::<usize>();
        let objects = Objects::Own(objects);
        Self { objects, pieces: Some(Mutex::default()), keeps: bytes <= MAX_PAGE_BYTES }
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.objects {
            Objects::Own(objects) => objects.len(),
            Objects::Shared(row) => row.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Obj>> {
        self.skipping(0)
    }

    /// One object by its place.
    #[must_use]
    pub fn get(&self, nth: usize) -> Option<&Arc<Obj>> {
        self.skipping(nth).next()
    }

    /// The last object.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<Obj>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The objects from this one on.
    pub(crate) fn skipping(&self, first: usize) -> impl Iterator<Item = &Arc<Obj>> {
        let (own, shared) = match &self.objects {
            Objects::Own(objects) => (objects.get(first..).unwrap_or_default(), None),
            Objects::Shared(row) => (&[][..], Some(row.skipping(first))),
        };
        own.iter().chain(shared.into_iter().flatten())
    }

    /// The objects, for one who changes them.
    pub(crate) fn into_objects(self: Arc<Self>) -> Vec<Arc<Obj>> {
        match Arc::try_unwrap(self) {
            Ok(Self { objects: Objects::Own(own), .. }) => own,
            Ok(shared) => shared.iter().cloned().collect(),
            Err(shared) => shared.iter().cloned().collect(),
        }
    }

    /// The text of the objects from `from` on, and the object after the last of them. In lists a comma stands before every
    /// object but the first.
    pub(crate) fn text(&self, form: Form, from: usize) -> (Bytes, usize) {
        let Some(pieces) = &self.pieces else {
            let (text, end) = self.write(form, from);
            return (text.into(), end);
        };
        if let Some(piece) = pieces.lock().get(&(form, from))
            && let Some(text) = piece.text.get()
        {
            return (text, piece.end);
        }
        let (text, end) = self.write(form, from);
        let (kept, text) = if self.keeps {
            let text = Bytes::from(text);
            (Text::Kept(text.clone()), text)
        } else {
            let text = Arc::new(text);
            (Text::Sent(Arc::downgrade(&text)), Bytes::from_owner(Shared(text)))
        };
        pieces.lock().insert((form, from), Piece { end, text: kept });
        (text, end)
    }

    fn write(&self, form: Form, from: usize) -> (Vec<u8>, usize) {
        let mut room = 0;
        for object in self.skipping(from) {
            room += object.stored().len() + ROOM_BYTES;
            if room > PIECE_BYTES {
                break;
            }
        }
        let mut text = Vec::with_capacity(room);
        let mut end = from;
        for object in self.skipping(from) {
            if text.len() >= PIECE_BYTES {
                break;
            }
            if end > 0 && form != Form::Frames {
                text.push(b',');
            }
            match form {
                Form::Items => object.write_item(&mut text),
                Form::WholeItems => object.write(&mut text),
                Form::Frames => write_frame(Change::Added.as_str(), object, &mut text),
            }
            end += 1;
        }
        (text, end)
    }
}

/// The pages that were read last, of all resources.
#[derive(Debug, Default)]
pub(crate) struct Pages(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    pages: VecDeque<(Arc<Listing>, usize)>,
    bytes: usize,
}

impl Pages {
    /// Keeps a page until others have been read.
    pub(crate) fn keep(&self, page: &Arc<Listing>) {
        if !page.keeps {
            return;
        }
        let bytes = page.iter().map(|it| it.stored().len()).sum();
        let mut recent = self.0.lock();
        recent.bytes += bytes;
        recent.pages.push_back((Arc::clone(page), bytes));
        while recent.bytes > PAGES_BYTES
            && let Some((_, bytes)) = recent.pages.pop_front()
        {
            recent.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;
    use crate::leaves::Leaves;

    fn objects(count: usize, size: usize) -> Vec<Arc<Obj>> {
        let object = |nth: usize| {
            let payload = "x".repeat(size);
            let value = value!({"kind": "ConfigMap", "apiVersion": "v1",
                "metadata": {"name": (format!("cm-{nth}")), "resourceVersion": "7"}, "data": {"payload": payload}});
            Arc::new(Obj::of(&value).expect("an object"))
        };
        (0..count).map(object).collect()
    }

    fn row(objects: &[Arc<Obj>]) -> Row {
        let mut leaves = Leaves::default();
        for (nth, object) in objects.iter().enumerate() {
            leaves.insert(format!("{nth:04}").into(), Arc::clone(object));
        }
        leaves.share("", objects.len())
    }

    fn whole(listing: &Listing, form: Form) -> String {
        let (mut text, mut next) = (Vec::new(), 0);
        while next < listing.len() {
            let (piece, end) = listing.text(form, next);
            text.extend_from_slice(&piece);
            next = end;
        }
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn pieces_make_the_whole_in_every_form() {
        let objects = objects(200, 1024);
        for (shared, page) in [(false, false), (true, false), (true, true)] {
            let listing = match (shared, page) {
                (false, _) => Listing::from(objects.clone()),
                (true, true) => Listing::page(objects.clone()),
                (true, false) => Listing::all(row(&objects)),
            };
            for form in [Form::Items, Form::WholeItems] {
                let list = format!("[{}]", whole(&listing, form));
                let list: serde_json::Value = serde_json::from_str(&list).expect("a list");
                let items = list.as_array().expect("a list");
                assert_eq!(items.len(), 200);
                assert_eq!(items[199]["metadata"]["name"], "cm-199");
                assert_eq!(items[0].get("kind").is_some(), form == Form::WholeItems);
            }
            assert_eq!(whole(&listing, Form::Frames).lines().count(), 200);
        }
    }

    #[test]
    fn text_is_made_once_while_somebody_sends_it() {
        let listing = Listing::all(row(&objects(200, 1024)));
        let (first, end) = listing.text(Form::Frames, 0);
        let (again, _) = listing.text(Form::Frames, 0);
        assert_eq!(first.as_ptr(), again.as_ptr());
        assert_ne!(listing.text(Form::Items, 0).0.as_ptr(), first.as_ptr());
        assert!(listing.text(Form::Frames, end).0.len() >= PIECE_BYTES);
        let piece = |listing: &Listing| {
            listing.pieces.as_ref().and_then(|it| it.lock().get(&(Form::Frames, 0))?.text.get())
        };
        assert!(piece(&listing).is_some());
        drop((first, again));
        assert!(piece(&listing).is_none(), "nobody sends it any more");
    }

    #[test]
    fn few_pages_are_kept() {
        let pages = Pages::default();
        let page = |size| Arc::new(Listing::page(objects(100, size)));
        let (small, large) = (page(9 << 10), page(20 << 10));
        pages.keep(&large);
        assert_eq!(pages.0.lock().pages.len(), 0, "too large");
        for _ in 0..9 {
            pages.keep(&small);
        }
        assert_eq!(pages.0.lock().pages.len(), 4);
        let (first, _) = small.text(Form::Items, 0);
        let at = first.as_ptr();
        drop(first);
        assert_eq!(small.text(Form::Items, 0).0.as_ptr(), at);
    }
}
