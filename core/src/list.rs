//! Putting into and taking out of the middle of a bounded list, for any index: the library's own
//! functions panic where there is no such place.

use heapless::Vec;

/// Puts `item` where `at` is, and moves what is there and behind it; at the end, if the list is
/// shorter. Gives it back if the list is full. Bounded by the list.
pub fn insert<T, const N: usize>(list: &mut Vec<T, N>, at: usize, item: T) -> Result<(), T> {
    list.push(item)?;
    match list.get_mut(at..) {
        Some(behind) if !behind.is_empty() => behind.rotate_right(1),
        _ => {}
    }
    Ok(())
}

/// Takes out what is at `at`, if there is anything, and moves what is behind it. Bounded by the
/// list.
pub fn take<T, const N: usize>(list: &mut Vec<T, N>, at: usize) -> Option<T> {
    let behind = list.get_mut(at..).filter(|behind| !behind.is_empty())?;
    behind.rotate_left(1);
    list.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_list_is_what_the_library_makes_of_it() {
        let mut list: Vec<u8, 4> = Vec::new();
        let mut model = list.clone();
        for (at, item) in [(0, 1), (0, 2), (1, 3), (3, 4)] {
            assert_eq!(insert(&mut list, at, item), model.insert(at, item));
            assert_eq!(list, model);
        }
        assert_eq!(insert(&mut list, 1, 5), Err(5), "full");
        for at in [1, 2, 0, 0] {
            assert_eq!(take(&mut list, at), Some(model.remove(at)));
            assert_eq!(list, model);
        }
    }

    #[test]
    fn a_place_that_is_not_there_is_no_panic() {
        let mut list: Vec<u8, 4> = Vec::from_slice(&[1]).expect("fits");
        assert_eq!(take(&mut list, 1), None);
        assert_eq!(take(&mut list, usize::MAX), None);
        assert_eq!(insert(&mut list, 9, 2), Ok(()));
        assert_eq!(list.as_slice(), [1, 2]);
    }
}
