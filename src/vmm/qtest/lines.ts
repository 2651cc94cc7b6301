/**
 * Lines of a stream that comes in pieces; each piece is looked through once, however many a line has. Ends with the stream, or where a line is
 * longer than `limit` characters: nothing that comes after it could be understood.
 */
export async function* linesOf(pieces: AsyncIterable<string>, limit: number): AsyncGenerator<string> {
  let rest = '';
  for await (const piece of pieces) {
    let from = 0;
    for (let end = piece.indexOf('\n'); end >= 0; end = piece.indexOf('\n', from)) {
      rest += piece.slice(from, end);
      if (rest.length > limit) return;
      yield rest;
      rest = '';
      from = end + 1;
    }
    rest += piece.slice(from);
    if (rest.length > limit) return;
  }
}
