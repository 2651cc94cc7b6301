import { describe, expect, test } from 'vitest';
import { PageRequests } from '../../../src/accel/nested/page-requests.ts';
import type { NestingParent } from '../../../src/host/host.ts';

/* Which of the kernel's cookies answers which group of page requests (PCIe 10.4.1), and that no more than so many are remembered. */

const LIMIT = 4096;

function start() {
  const responses: [cookie: number, resolved: boolean][] = [];
  const requests = new PageRequests({ respond: (cookie, resolved) => void responses.push([cookie, resolved]) } as NestingParent);
  return { requests, responses };
}

describe('groups of page requests that wait for the guest', () => {
  test('are answered once, each by its endpoint, PASID and group', () => {
    const { requests, responses } = start();
    expect([
      requests.expect(1, 2, 3, 10),
      requests.expect(1, 2, 4, 11),
      requests.expect(1, 3, 3, 12),
      requests.expect(2, 2, 3, 13),
    ]).toEqual([true, true, true, true]);
    requests.answer(1, 2, 3, true);
    requests.answer(1, 2, 3, true);
    requests.answer(2, 2, 3, false);
    requests.answer(9, 9, 9, true);
    expect(responses).toEqual([
      [10, true],
      [13, false],
    ]);
  });

  test('that are asked for anew supersede those of before, whose device hears that there is no page', () => {
    const { requests, responses } = start();
    requests.expect(1, 2, 3, 10);
    expect(requests.expect(1, 2, 3, 11)).toBe(true);
    requests.answer(1, 2, 3, true);
    expect(responses).toEqual([
      [10, false],
      [11, true],
    ]);
  });

  test('are so many and no more: one more is refused, until one has its answer', () => {
    const { requests, responses } = start();
    let taken = 0;
    for (let group = 0; group < LIMIT; group++) taken += Number(requests.expect(1, 2, group, group));
    expect(taken).toBe(LIMIT);
    expect(requests.expect(1, 3, 0, 5000)).toBe(false);
    expect(responses).toEqual([[5000, false]]);
    requests.answer(1, 2, 7, true);
    expect(requests.expect(1, 3, 0, 5001)).toBe(true);
  });

  test('are forgotten without an answer with the PASID, or the endpoint, whose stage is left', () => {
    const { requests, responses } = start();
    for (const [endpoint, pasid] of [
      [1, 2],
      [1, 3],
      [2, 2],
    ])
      requests.expect(endpoint, pasid, 0, 10 * endpoint + pasid);
    requests.forget(1, 2);
    requests.answer(1, 2, 0, true);
    expect(responses).toEqual([]);
    requests.answer(1, 3, 0, true);
    requests.answer(2, 2, 0, true);
    expect(responses).toEqual([
      [13, true],
      [22, true],
    ]);
    for (const pasid of [2, 3]) requests.expect(1, pasid, 0, 30 + pasid);
    requests.expect(2, 2, 0, 40);
    requests.forgetEndpoint(1);
    for (const pasid of [2, 3]) requests.answer(1, pasid, 0, true);
    expect(responses.length).toBe(2);
    requests.answer(2, 2, 0, true);
    expect(responses.at(-1)).toEqual([40, true]);
  });
});
