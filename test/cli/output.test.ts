import { afterEach, describe, expect, test, vi } from 'vitest';
import { endQuietly, processOutput } from '../../src/cli/output.ts';
import { progressOf } from '../../src/cli/progress.ts';
import { table } from '../../src/cli/table.ts';
import { wrapped } from '../../src/cli/wrap.ts';

afterEach(() => vi.restoreAllMocks());

/** What the process writes on its two streams, which are a terminal or not, while `act` runs. */
function written(isTerminal: boolean, act: () => void): { out: string; err: string } {
  const texts = { out: '', err: '' };
  const before = process.stderr.isTTY;
  process.stderr.isTTY = isTerminal;
  const collect = (stream: 'out' | 'err') => (text: string | Uint8Array) => {
    texts[stream] += text;
    return true;
  };
  vi.spyOn(process.stdout, 'write').mockImplementation(collect('out'));
  vi.spyOn(process.stderr, 'write').mockImplementation(collect('err'));
  try {
    act();
  } finally {
    vi.restoreAllMocks();
    process.stderr.isTTY = before;
  }
  return texts;
}

describe('the output of the process', () => {
  test('a line each on its stream; no progress where standard error is no terminal', () => {
    const { out, err } = written(false, () => {
      const output = processOutput();
      output.out('answer');
      output.err('complaint');
      expect(output.progress).toBeNull();
      expect(progressOf(output, 'reading', 100)).toBeUndefined();
    });
    expect({ out, err }).toEqual({ out: 'answer\n', err: 'complaint\n' });
  });

  test('progress goes to the terminal, from the start of a line that is cleared, and leaves standard output alone', () => {
    const { out, err } = written(true, () => processOutput().progress?.('half'));
    expect({ out, err }).toEqual({ out: '', err: '\r\x1b[Khalf' });
  });

  test('a reader that has seen enough ends it, another failure does not pass in silence; an interrupt clears the line', () => {
    const exits: (number | undefined)[] = [];
    let failed: (error: unknown) => void = () => {};
    let interrupted: () => void = () => {};
    const { out, err } = written(true, () => {
      vi.spyOn(process, 'exit').mockImplementation((code) => exits.push(code as number | undefined) as never);
      vi.spyOn(process.stdout, 'on').mockImplementation((_event, listener) => {
        failed = listener;
        return process.stdout;
      });
      vi.spyOn(process, 'once').mockImplementation((_event: string | symbol, listener: () => void) => {
        interrupted = listener;
        return process;
      });
      endQuietly();
      failed(Object.assign(new Error('broken pipe'), { code: 'EPIPE' }));
      expect(() => failed(Object.assign(new Error('no space'), { code: 'ENOSPC' }))).toThrow('no space');
      interrupted();
    });
    // 128 + SIGINT.
    expect({ exits, out, err }).toEqual({ exits: [undefined, 130], out: '', err: '\r\x1b[K' });
  });
});

describe('progress', () => {
  const drawn: string[] = [];
  const output = { out: () => {}, err: () => {}, progress: (text: string) => void drawn.push(text), columns: 80 };

  test('is drawn a few times a second at most, by how much of the file is read', () => {
    const now = vi.spyOn(performance, 'now').mockReturnValue(1000);
    const tell = progressOf(output, 'reading', 200)!;
    tell({ bytesRead: 50 } as never, 1234);
    tell({ bytesRead: 100 } as never, 2000);
    now.mockReturnValue(1100);
    tell({ bytesRead: 300 } as never, 2001);
    expect(drawn.splice(0)).toEqual([
      `reading [${'#'.repeat(8)}${'.'.repeat(22)}] 25 % 1,234 operations`,
      `reading [${'#'.repeat(30)}] 100 % 2,001 operations`,
    ]);
  });

  test('an empty file is read as it begins', () => {
    progressOf(output, 'reading', 0)!({ bytesRead: 0 } as never, 0);
    expect(drawn.splice(0)).toEqual([`reading [${'#'.repeat(30)}] 100 % 0 operations`]);
  });
});

describe('tables and texts', () => {
  test('numbers stand to the right; the first column gives way, to 8 columns at least', () => {
    expect(table(['name', 'calls'], [['a', 1234]], 80)).toEqual(['name  calls', 'a     1,234']);
    expect(table(['name', 'calls'], [['a very long name', 1]], 17)).toEqual(['name        calls', 'a very lo…      1']);
    expect(table(['name'], [['a very long name']], 3)).toEqual(['name', 'a very …']);
  });

  test('lines end at a word; a word that is too long stands alone', () => {
    expect(wrapped('why: ', 'one two three', 12)).toEqual(['why: one two', '     three']);
    expect(wrapped('why: ', 'one two', 11)).toEqual(['why: one', '     two']);
    expect(wrapped('- ', 'incomprehensibilities of', 10)).toEqual(['- incomprehensibilities', '  of']);
  });
});
