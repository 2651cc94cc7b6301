/** Places for contexts known at one time, in sets of WAYS: one more takes the place, and the translations, of another. */
const PLACES = 4096;
const WAYS = 4;
/** Ints of a place: space, context, tag, one unused. */
const PLACE_LG2 = 2;
const CONTEXT = 1;
const TAG = 2;
/** lg2 of the ints of a set. */
const SET_LG2 = 4;
/** The tag of a place that no context has had; of one whose context was forgotten. A set's places are taken in order, so none after a free one is. */
const FREE = 0;
const FORGOTTEN = -1;
/** Spaces whose low bits are equal are forgotten together. */
const SPACES = 1024;

/** In `unusual`: global translations may be in the cache; and translations of more than a small page. */
const GLOBALS = 1;
export const LARGE = 2;

/** No device's number, and no process's. */
const NOBODY = -0x8000_0000;

/**
 * What an IOTLB knows of spaces and contexts, and which one is current: its base, and no object beside it, because an invalidation through a
 * second one took a fifth longer (docs/performance.md).
 *
 * A space and a context are one number, the tag, which their translations carry. What is forgotten gets another tag, so nothing that carries
 * the old one is found again; tags only grow, so a space need not know its contexts: it remembers the tag up to which all of its are old.
 */
export abstract class IotlbContexts {
  /** The current context's, never old. */
  protected tag = 0;
  /** Where that context is known: `isOld`. */
  protected tagAt = 0;
  /** What sets it apart from others in places of pages. */
  protected salt = 0;
  protected space = 0;
  protected context = 0;
  /** Whose requests the current context answers. */
  protected device = NOBODY;
  protected process = NOBODY;
  /** Bits of what invalidations of a page have to look at further: 0 most often. A number, for a boolean takes the compiler more compares. */
  protected unusual = 0;
  readonly #places = new Int32Array(PLACES << PLACE_LG2);
  /** By space: tags up to this one are old. */
  readonly #oldTags = new Int32Array(SPACES);
  /** By space: 1 when a global translation may be in the cache. */
  readonly #globals = new Uint8Array(SPACES);
  /** Before tags could come round, everything is forgotten. */
  readonly #limit: number;
  #lastTag = 0;
  #victim = 0;

  /** `limit`: the last tag that is given. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Nothing may be left that carries a tag. */
  protected abstract dropAll(): void;

  /** `serve` is undone: what the device's process has may be another context. */
  serveNobody(): void {
    this.device = NOBODY;
    this.process = NOBODY;
  }

  /** Makes a space and context the current ones, which most often are where they are looked for first, and not old. */
  protected select(space: number, context: number): void {
    const places = this.#places;
    const first = setOf(space, context);
    const tag = places[first | TAG];
    const isCurrent = places[first] === space && places[first | CONTEXT] === context && tag > this.#oldTags[space & (SPACES - 1)];
    const at = isCurrent ? first : this.#know(space, context, first);
    this.space = places[at];
    this.context = places[at | CONTEXT];
    this.tag = places[at | TAG];
    this.tagAt = at;
    this.salt = saltOf(this.tag);
    this.serveNobody();
  }

  /** The tag of a context that may have translations. 0: it has none, and an invalidation nothing to do. */
  protected tagOf(space: number, context: number): number {
    const places = this.#places;
    const first = setOf(space, context);
    const tag = places[first | TAG];
    if (tag === FREE) return 0;
    if (places[first] !== space || places[first | CONTEXT] !== context) return this.#tagElsewhere(space, context);
    return tag > this.#oldTags[space & (SPACES - 1)] ? tag : 0;
  }

  #tagElsewhere(space: number, context: number): number {
    const at = this.#find(space, context);
    return at < 0 ? 0 : this.#places[at | TAG];
  }

  /** Whether what carries the tag, of the context that was known at the place, is found no more. */
  protected isOldTag(at: number, tag: number): boolean {
    const places = this.#places;
    return tag === 0 || places[at + TAG] !== tag || tag <= this.#oldTags[places[at] & (SPACES - 1)];
  }

  protected forgetContext(space: number, context: number): void {
    const at = this.#find(space, context);
    if (at < 0) return;
    this.#places[at | TAG] = FORGOTTEN;
    this.select(this.space, this.context);
  }

  protected forgetSpace(space: number): void {
    this.#oldTags[space & (SPACES - 1)] = this.#lastTag;
    this.#globals[space & (SPACES - 1)] = 0;
    this.select(this.space, this.context);
  }

  protected forgetSpaces(): void {
    this.#oldTags.fill(this.#lastTag);
    this.#globals.fill(0);
    this.unusual = 0;
    this.select(this.space, this.context);
  }

  /** A translation of the space is the same in all of its contexts, until the space is forgotten. */
  protected noteGlobal(space: number): void {
    this.#globals[space & (SPACES - 1)] = 1;
    this.unusual |= GLOBALS;
  }

  protected mayHaveGlobals(space: number): boolean {
    return this.#globals[space & (SPACES - 1)] !== 0;
  }

  #find(space: number, context: number): number {
    const places = this.#places;
    const first = setOf(space, context);
    for (let way = 0; way < WAYS; way++) {
      const at = first | (way << PLACE_LG2);
      const tag = places[at | TAG];
      if (tag === FREE) return -1;
      if (places[at] === space && places[at | CONTEXT] === context) return tag > this.#oldTags[space & (SPACES - 1)] ? at : -1;
    }
    return -1;
  }

  /** Where in its set a context is. What is not known, or old, gets a new tag. */
  #know(space: number, context: number, first: number): number {
    const places = this.#places;
    let at = -1;
    for (let way = 0; way < WAYS; way++) {
      const place = first + (way << PLACE_LG2);
      if (places[place] === space && places[place | CONTEXT] === context) {
        at = place;
        break;
      }
      if (at < 0 && places[place | TAG] <= this.#oldTags[places[place] & (SPACES - 1)]) at = place;
    }
    if (at < 0) {
      this.#victim = (this.#victim + 1) % WAYS;
      at = first + (this.#victim << PLACE_LG2);
    }
    const old = this.#oldTags[space & (SPACES - 1)];
    if (places[at] !== space || places[at | CONTEXT] !== context || places[at | TAG] <= old) {
      if (this.#lastTag === this.#limit) {
        this.#beginAnew();
        at = first;
      }
      places[at] = space;
      places[at | CONTEXT] = context;
      places[at | TAG] = ++this.#lastTag;
    }
    return at;
  }

  #beginAnew(): void {
    this.dropAll();
    this.#places.fill(0);
    this.#oldTags.fill(0);
    this.#lastTag = 0;
  }
}

/** What sets a tag's pages apart from those of others, where pages get their places. */
export function saltOf(tag: number): number {
  return Math.imul(tag, 0x1b873593);
}

/** The set of places in which a context can be known. A constant, for the compiler takes a function declaration for a variable. */
const setOf = (space: number, context: number): number => ((Math.imul(space, 0x61c88647) + context) & (PLACES / WAYS - 1)) << SET_LG2;
