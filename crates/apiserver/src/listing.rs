//! Lists: the objects of one moment, shared by all who read that moment, and pieces of their text, each made once for all
//! who send it at a time.
//!
//! A thousand informers that begin together hold one list of objects, not a thousand, and send the same bytes. Text is kept
//! while somebody sends it; that of small pages a little longer ([`Pages`]). It knows no selectors.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Weak};

use apimachinery::obj::Obj;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::cache::{Change, write_frame};

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
    objects: Vec<Arc<Obj>>,
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

impl Deref for Listing {
    type Target = [Arc<Obj>];

    fn deref(&self) -> &[Arc<Obj>] {
        &self.objects
    }
}

impl From<Vec<Arc<Obj>>> for Listing {
    fn from(objects: Vec<Arc<Obj>>) -> Self {
        Self { objects, ..Self::default() }
    }
}

impl Listing {
    /// A list that others will read too. The text of a page is kept with it, unless it is large.
    pub(crate) fn shared(objects: Vec<Arc<Obj>>, is_page: bool) -> Self {
        let keeps =
            is_page && objects.iter().map(|it| it.stored().len()).sum::<usize>() <= MAX_PAGE_BYTES;
        Self { objects, pieces: Some(Mutex::default()), keeps }
    }

    /// The objects, for one who changes them.
    pub(crate) fn into_objects(self: Arc<Self>) -> Vec<Arc<Obj>> {
        match Arc::try_unwrap(self) {
            Ok(own) => own.objects,
            Err(shared) => shared.objects.clone(),
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
        for object in self.objects.iter().skip(from) {
            room += object.stored().len() + ROOM_BYTES;
            if room > PIECE_BYTES {
                break;
            }
        }
        let mut text = Vec::with_capacity(room);
        let mut end = from;
        while text.len() < PIECE_BYTES
            && let Some(object) = self.objects.get(end)
        {
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

    fn objects(count: usize, size: usize) -> Vec<Arc<Obj>> {
        let object = |nth: usize| {
            let payload = "x".repeat(size);
            let value = value!({"kind": "ConfigMap", "apiVersion": "v1",
                "metadata": {"name": (format!("cm-{nth}")), "resourceVersion": "7"}, "data": {"payload": payload}});
            Arc::new(Obj::of(&value).expect("an object"))
        };
        (0..count).map(object).collect()
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
            let listing = if shared {
                Listing::shared(objects.clone(), page)
            } else {
                Listing::from(objects.clone())
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
        let listing = Listing::shared(objects(200, 1024), false);
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
        let page = |size| Arc::new(Listing::shared(objects(100, size), true));
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
