import { describe, expect, test } from 'vitest';
import { READ } from '../../../src/memory/access.ts';
import { OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import { GERROR, REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { COMMANDS, DONE, EVENTS, Guest, PAGE_1, QUEUE_LG2, sync } from './guest.ts';

/* Who is told, how, and in which order (3.18, 7.5). */

const STREAM = 8;
const ON = 0b1111;
/** GITS_TRANSLATER of an ITS: what is written there is an EventID. */
const TRANSLATER = 0x809_0040n;
const NOWHERE = 1n << 41n;

/** An ITS that has LPIs 8192 and up for EventIDs 0 to 3 of the SMMU's DeviceID, and nothing else in the machine that takes writes. */
function withIts() {
  const lpis: number[] = [];
  const message = (address: bigint, event: number) => {
    if (address !== TRANSLATER) return false;
    if (event < 4) lpis.push(8192 + event);
    return true;
  };
  return { guest: new Guest({ message }), lpis };
}

const illegal: readonly [bigint, bigint] = [BigInt(OPCODE.SYNC) | (3n << 12n), 0n];
const pageRequest = {
  stream: STREAM,
  pasid: null,
  page: 1,
  read: true,
  write: false,
  execute: false,
  privileged: false,
  group: 0,
  last: true,
};

/** Each source that has registers: its enable, where its message goes, what makes it speak, and the error if nothing takes the message. */
const SOURCES = [
  {
    name: 'event',
    enable: 4,
    cfg: REG.EVENTQ_IRQ_CFG0,
    happen: (guest: Guest) => guest.access(STREAM, 0n, READ),
    error: GERROR.MSI_EVENTQ_ABT_ERR,
  },
  {
    name: 'pri',
    enable: 2,
    cfg: REG.PRIQ_IRQ_CFG0,
    happen: (guest: Guest) => guest.smmu.pageRequest(pageRequest),
    error: GERROR.MSI_PRIQ_ABT_ERR,
  },
  {
    name: 'gerror',
    enable: 1,
    cfg: REG.GERROR_IRQ_CFG0,
    happen: (guest: Guest) => guest.command(illegal),
    error: GERROR.MSI_GERROR_ABT_ERR,
  },
] as const;

describe.each(SOURCES)('$name', ({ name, enable, cfg, happen, error }) => {
  const configured = (guest: Guest, address: bigint, data: number, enables: number = enable) => {
    guest.write64(cfg, address);
    guest.write(cfg + 8, data);
    guest.start(ON);
    guest.write(REG.IRQ_CTRL, enables);
    return guest;
  };

  test('a message to an ITS is its EventID; a wire is pulsed too', () => {
    const { guest, lpis } = withIts();
    happen(configured(guest, TRANSLATER, 2));
    expect([lpis, guest.interrupts, guest.read(REG.GERROR) & ~1]).toEqual([[8194], [name], 0]);
  });

  test('a message to RAM; ADDR 0 is none; not enabled, nothing', () => {
    const told = (address: bigint, enables: number = enable) => {
      const { guest, lpis } = withIts();
      happen(configured(guest, address, 0x55, enables));
      return [guest.load(DONE), guest.interrupts, lpis];
    };
    expect(told(BigInt(DONE))).toEqual([0x55n, [name], []]);
    expect(told(0n)).toEqual([0n, [name], []]);
    expect(told(BigInt(DONE), 0)).toEqual([0n, [], []]);
  });

  test('one that nothing takes is a global error, which the guest hears of unless it is that of global errors', () => {
    const { guest } = withIts();
    happen(configured(guest, NOWHERE, 0, enable | 1));
    expect((guest.read(REG.GERROR) >>> error.shift) & 1).toBe(1);
    expect(guest.interrupts).toEqual(name === 'gerror' ? ['gerror'] : [name, 'gerror']);
  });
});

test('an error that the guest has not acknowledged is not told again, and one that it has is', () => {
  const { guest } = withIts();
  guest.write64(REG.EVENTQ_IRQ_CFG0, NOWHERE);
  guest.start(ON);
  guest.write(REG.IRQ_CTRL, 4 | 1);
  const error = () => (guest.read(REG.GERROR) >>> GERROR.MSI_EVENTQ_ABT_ERR.shift) & 1;
  const told = () => guest.interrupts.filter((source) => source === 'gerror').length;
  /** An event that comes to an empty queue. */
  const happen = () => {
    guest.write(PAGE_1 + REG.EVENTQ_CONS, guest.read(PAGE_1 + REG.EVENTQ_PROD));
    guest.access(STREAM, 0n, READ);
  };
  for (let i = 0; i < 2; i++) happen();
  expect([error(), told()]).toEqual([1, 1]);
  guest.write(REG.GERRORN, guest.read(REG.GERROR));
  happen();
  expect([error(), told()]).toEqual([0, 2]);
});

test('a CMD_SYNC’s message to an ITS', () => {
  const { guest, lpis } = withIts();
  guest.start().command(sync((1n << 12n) | (3n << 32n), TRANSLATER));
  expect([lpis, guest.interrupts]).toEqual([[8195], ['sync']]);
});

test('who hears of a CMD_SYNC sees that it is consumed, and who hears of an event finds it', () => {
  const seen: unknown[] = [];
  const guest: Guest = new Guest({
    interrupt: (source) => {
      if (source === 'sync') seen.push(['sync', guest.read(REG.CMDQ_CONS)]);
      else seen.push([source, guest.read(PAGE_1 + REG.EVENTQ_PROD), guest.load(EVENTS) & 0xffn]);
    },
    message: () => {
      seen.push(['message', guest.read(REG.CMDQ_CONS)]);
      return true;
    },
  });
  guest.start();
  guest.write(REG.IRQ_CTRL, 4);
  guest.command([BigInt(OPCODE.TLBI_NSNH_ALL), 0n], sync(1n << 12n, TRANSLATER), sync());
  guest.access(STREAM, 0n, READ);
  expect(seen).toEqual([
    ['sync', 2],
    ['message', 2],
    ['event', 1, 4n],
  ]);
  expect(guest.read(REG.CMDQ_CONS)).toBe(3 % 2 ** QUEUE_LG2);
});

test('interrupts inside interrupts: who mends and acknowledges an error, or gives new commands, while told of it', () => {
  const later: (() => void)[] = [];
  const seen: string[] = [];
  const guest: Guest = new Guest({
    schedule: (work) => void later.push(work),
    interrupt: (source) => {
      seen.push(`${source} ${guest.read(REG.CMDQ_CONS) & 0xf_ffff}`);
      if (source === 'gerror') {
        guest.store(COMMANDS, BigInt(OPCODE.TLBI_NSNH_ALL));
        guest.write(REG.GERRORN, guest.read(REG.GERROR));
      }
      // One more, the first time.
      if (seen.length === 2) guest.command(sync(1n << 12n));
      if (source === 'event') guest.access(STREAM, 0n, READ);
    },
  });
  guest.start();
  guest.write(REG.IRQ_CTRL, 5);
  guest.command(illegal, sync(1n << 12n));
  expect([[...seen], later.length]).toEqual([['gerror 0'], 1]);
  while (later.length > 0) later.shift()!();
  expect([seen, guest.error, guest.read(REG.CMDQ_CONS)]).toEqual([['gerror 0', 'sync 2', 'sync 3'], 0, 3]);
  seen.length = 0;
  guest.access(STREAM, 0n, READ);
  expect([seen, guest.read(PAGE_1 + REG.EVENTQ_PROD)]).toEqual([['event 3'], 2]);
});
