/** Up to here a place, and the 64 bytes after it, are int32. */
const INT32_PLACES = 0x7fff_ff00;
/** From here on a call of the engine on a `subarray`, which allocates, costs less than a loop. */
const SHORT = 64;
/** Node's: fills a Uint8Array with bytes, once where they are as many. It copies as fast as memory is; `set` does not where memory is shared. */
const { fill } = Buffer.prototype;
const NO_BYTES: Uint8Array = new Uint8Array(0);
const NO_WORDS: BigUint64Array = new BigUint64Array(0);

/** A short copy byte by byte, in int32; a longer one as fast as memory is. Places above 2 GiB are no int32. The two do not overlap. */
export function copyBytes(from: Uint8Array, at: number, to: Uint8Array, place: number, bytes: number): void {
  if (at > INT32_PLACES || place > INT32_PLACES) {
    to.set(from.subarray(at, at + bytes), place);
    return;
  }
  if (bytes > SHORT) {
    fill.call(to, from.subarray(at, at + bytes), place, place + bytes);
    return;
  }
  const first = at | 0;
  const second = place | 0;
  for (let i = 0; i < bytes; i++) to[(second + i) | 0] = from[(first + i) | 0];
}

/** The same of whole words of 64 bits; places count words. */
export function copyWords(from: BigUint64Array, at: number, to: BigUint64Array, place: number, words: number): void {
  const first = at | 0;
  const second = place | 0;
  for (let i = 0; i < words; i++) to[(second + i) | 0] = from[(first + i) | 0];
}

/** The array that a caller hands in over and over, as words of 64 bits, so that short copies need an eighth of the steps. */
export class ArrayWords {
  #array = NO_BYTES;
  #words = NO_WORDS;
  #isSeen = false;

  /**
   * Words of the array, or none of them: it is handed in for the first time, is not aligned, or has changed its size. Only an array that comes back is
   * worth a view.
   */
  of(array: Uint8Array): BigUint64Array {
    if (array !== this.#array) return this.#take(array);
    return this.#isSeen ? this.#words : this.#see(array);
  }

  #take(array: Uint8Array): BigUint64Array {
    this.#array = array;
    this.#words = NO_WORDS;
    this.#isSeen = false;
    return NO_WORDS;
  }

  #see(array: Uint8Array): BigUint64Array {
    const { buffer, byteOffset, length } = array;
    this.#isSeen = true;
    if (byteOffset % 8 === 0) this.#words = new BigUint64Array(buffer, byteOffset, Math.floor(length / 8));
    return this.#words;
  }
}
