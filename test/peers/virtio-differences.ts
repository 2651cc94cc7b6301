import type { VirtioIommuState } from '../../src/target/virtio-iommu/index.ts';
import {
  S_INVAL,
  S_NOENT,
  S_OK,
  S_RANGE,
  S_UNSUPP,
  T_ATTACH,
  T_DETACH,
  T_MAP,
  T_UNMAP,
} from '../../src/target/virtio-iommu/spec/requests.ts';
import type { Buffer } from '../virtqueue/driver.ts';

/** One request, what became of it on both sides, and our state before it. */
export interface Answered {
  readonly request: Buffer;
  readonly before: VirtioIommuState;
  /** Status (-1: none) and used length. */
  readonly ours: readonly [number, number];
  readonly theirs: readonly [number, number];
}

/** Where QEMU 11.1 does not do what virtio 1.4 says. */
export interface Difference {
  readonly what: string;
  readonly section: string;
  /** Afterwards the two hold different mappings: the program ends. */
  readonly ends: boolean;
  matches(answered: Answered): boolean;
}

const u32 = ({ readable }: Buffer, at: number) => new DataView(readable.buffer, readable.byteOffset).getUint32(at, true);
const u64 = ({ readable }: Buffer, at: number) => new DataView(readable.buffer, readable.byteOffset).getBigUint64(at, true);
const domainOf = ({ request, before }: Answered) => before.domains.find(({ id }) => id === u32(request, 4));
const homeOf = ({ request, before }: Answered) => before.domains.find(({ endpoints }) => endpoints.includes(u32(request, 8)));
const is = ({ request }: Answered, type: number) => request.readable[0] === type;

export const differences: readonly Difference[] = [
  {
    what: 'a request type that is not known is answered UNSUPP',
    section: '5.13.6.2: SHOULD NOT write the buffer and SHOULD set the used length to zero',
    ends: false,
    matches: ({ ours, theirs }) => ours[1] === 0 && theirs[0] === S_UNSUPP,
  },
  {
    what: 'the reserved field of ATTACH is not looked at',
    section: '5.13.6.3.2: MUST reject',
    ends: true,
    matches: (it) => is(it, T_ATTACH) && u32(it.request, 16) !== 0 && it.ours[0] === S_INVAL,
  },
  {
    what: 'ATTACH to the domain that the endpoint alone is in detaches first, and the domain is gone with its mappings',
    section: '5.13.6.3.2: only an endpoint that is attached to another domain is detached first',
    ends: true,
    matches: (it) =>
      is(it, T_ATTACH) &&
      it.ours[0] === S_OK &&
      domainOf(it) !== undefined &&
      domainOf(it) === homeOf(it) &&
      homeOf(it)!.endpoints.length === 1,
  },
  {
    what: 'ATTACH detaches the endpoint before it finds that the BYPASS flag does not fit the domain',
    section: '5.13.6.3.2: SHOULD reject the request',
    ends: true,
    matches: (it) => is(it, T_ATTACH) && it.ours[0] === S_INVAL && u32(it.request, 12) < 2 && homeOf(it) !== undefined,
  },
  {
    what: 'DETACH of an endpoint that was never attached is answered NOENT',
    section: '5.13.6.4.2: NOENT is for an endpoint that does not exist, INVAL for one that is not attached',
    ends: false,
    matches: (it) => is(it, T_DETACH) && it.ours[0] === S_INVAL && it.theirs[0] === S_NOENT && homeOf(it) === undefined,
  },
  {
    what: 'MAP takes addresses outside the input range that the device states',
    section: '5.13.6: any mapping request to virtual addresses outside of this range fails',
    ends: true,
    matches: (it) => is(it, T_MAP) && it.ours[0] === S_RANGE && it.theirs[0] === S_OK && isAligned(it.request),
  },
  {
    what: 'MAP takes addresses that are not aligned on the page granularity',
    section: '5.13.6.5.2: SHOULD reject the request with RANGE',
    ends: true,
    matches: (it) => is(it, T_MAP) && it.ours[0] === S_RANGE && [S_OK, S_INVAL].includes(it.theirs[0]) && !isAligned(it.request),
  },
  {
    what: 'the reserved field of UNMAP is not looked at',
    section: '5.13.6.6.2: MAY set INVAL',
    ends: true,
    matches: (it) => is(it, T_UNMAP) && u32(it.request, 24) !== 0 && it.ours[0] === S_INVAL,
  },
  {
    what: 'UNMAP that would split a mapping has removed others of its range',
    section: '5.13.6.6.2: SHOULD NOT remove any mapping',
    ends: true,
    matches: (it) => is(it, T_UNMAP) && it.ours[0] === S_RANGE && it.theirs[0] === S_RANGE && mappingsIn(it) > 1,
  },
];

function isAligned(map: Buffer): boolean {
  return (u64(map, 8) | (u64(map, 16) + 1n) | u64(map, 24)) % 4096n === 0n;
}

/** Mappings of the domain that an UNMAP's range touches. */
function mappingsIn(it: Answered): number {
  const mappings = domainOf(it)?.mappings ?? [];
  const first = Number(u64(it.request, 8) >> 12n);
  const last = Number(u64(it.request, 16) >> 12n);
  let count = 0;
  for (let i = 0; i < mappings.length; i += 4) if (mappings[i] <= last && mappings[i] + mappings[i + 1] > first) count++;
  return count;
}
