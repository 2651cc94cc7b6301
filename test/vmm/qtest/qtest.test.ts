import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { QmpProtocol, QtestProtocol, testMachine } from '../../../src/vmm/qtest/index.ts';
import { BAR, Client, ECAM, TEST_DEVICE } from './client.ts';

describe('machines have things where QEMU’s have them', () => {
  test('riscv-virt: the IOMMU is a function, and lets nothing through until it is told', () => {
    const client = new Client('riscv-virt');
    const iommu = ECAM['riscv-virt'] + BigInt(1 << 15);
    expect(client.readl(iommu)).toBe(0x0014_1b36);
    client.writel(iommu + 0x10n, 0xffff_ffff);
    expect(client.readl(iommu + 0x10n)).toBe(0xffff_f004);
    client.writel(iommu + 0x10n, 0xe001_0000);
    client.writel(iommu + 0x14n, 0);
    client.writel(iommu + 4n, 6);
    expect(client.readl(0xe001_0000) & 0xff).toBe(0x10);
    expect(client.readl(0x1000_8000)).toBe(0x7472_6976);
    expect(client.dma(0x8000_1000, 0x8000_1000)).toBe(0xdead_0002);
    // ddtp.iommu_mode: bare.
    client.ask('writeq 0xe0010010 1');
    expect(client.dma(0x8000_1000, 0x8000_1000)).toBe(0);
    expect(client.readl(0x8000_1000)).toBe(0x1234_5678);
  });

  test('q35: VT-d’s registers, and configuration space by ports', () => {
    const client = new Client('q35');
    expect(client.readl(0xfed9_0000)).toBe(0x10);
    client.ask('outl 0xcf8 0x80001000');
    expect(Number(client.ask('inl 0xcfc'))).toBe(0x0005_1b36);
    expect(Number(client.ask('inw 0xcfe'))).toBe(5);
    client.ask('outl 0xcf8 0x80001002');
    expect(Number(client.ask('inw 0xcfc'))).toBe(5);
    expect(client.dma(0x2000, 0x2000)).toBe(0);
    expect(client.dma(0x2000, 0x2008)).toBe(0xdead_0004);
    expect(client.dma(0x2000, 0x7000_0000)).toBe(0xdead_0003);
  });

  test('arm-virt: SMMUv3’s registers; off, it lets requests through', () => {
    const client = new Client('arm-virt');
    expect(client.readl(0x0905_0000) & 3).toBe(3);
    expect(client.dma(0x4000_3000, 0x4000_3000)).toBe(0);
  });

  test.each([
    ['riscv-virt', ['iommu-testdev', 'riscv-iommu-pci'], 'virt'],
    ['q35', ['iommu-testdev', 'intel-iommu', 'amd-iommu'], 'q35'],
    // QEMU's SMMUv3 tests are skipped on a machine without the interrupt controller, though none is asked anything.
    ['arm-virt', ['iommu-testdev', 'arm-smmuv3', 'arm-gicv3'], 'virt'],
  ] as const)('%s: the types and the name that clients look for', (name, types, called) => {
    const qmp = new QmpProtocol(testMachine(name, { ramBytes: 4096 }));
    qmp.answer('{"execute":"qmp_capabilities"}');
    const [list] = qmp.answer('{"execute":"qom-list-types","arguments":{"implements":"device"}}').lines as [{ return: { name: string }[] }];
    expect(list.return.map((type) => type.name)).toEqual(types);
    expect(qmp.answer('{"execute":"query-machines"}').lines).toMatchObject([{ return: [{ name: called }] }]);
  });

  test.each([
    [{ ramBytes: -1 }, 'testMachine: ramBytes -1 is not in'],
    [{ ramBytes: 2 ** 33 }, 'testMachine: ramBytes'],
    [{ ramBytes: 4097 }, '4097 bytes'],
    [{ testDevice: 32 }, 'testMachine: testDevice 32 is not in 0..31'],
    [{ iommu: 1.5 }, 'testMachine: iommu 1.5 is not in 0..31'],
    [{ unit: 'smmuv3' as const }, 'testMachine: unit smmuv3 is none of q35'],
  ])('%j is a RangeError that names it', (options, message) => {
    expect(() => testMachine('q35', options)).toThrow(RangeError);
    expect(() => testMachine('q35', options)).toThrow(message);
  });

  test('a reset takes everything back', () => {
    const client = new Client('q35');
    client.dma(0x2000, 0x2000);
    client.machine.reset();
    expect(client.readl(ECAM.q35 + BigInt(TEST_DEVICE) + 4n) & 0xffff).toBe(0);
    expect(client.readl(BAR + 0x10)).toBe(0);
  });
});

describe('protocol', () => {
  test('every width, and numbers as C writes them', () => {
    const client = new Client('q35');
    client.ask('writeq 0x1000 0x1122334455667788');
    expect(['readb', 'readw', 'readl', 'readq'].map((name) => client.ask(`${name} 4096`))).toEqual([
      '0x0000000000000088',
      '0x0000000000007788',
      '0x0000000055667788',
      '0x1122334455667788',
    ]);
    client.ask('writeb 010000 -1');
    expect(client.ask('readw 0x1000')).toBe('0x00000000000077ff');
  });

  test('bytes in hexadecimal and in base64, and fills', () => {
    const client = new Client('q35');
    client.ask('write 0x3000 0x4 0xdeadbeef');
    expect(client.ask('read 0x3000 0x4')).toBe('0xdeadbeef');
    client.ask(`b64write 0x3001 0x3 ${Buffer.from([1, 2, 3]).toString('base64')}`);
    expect(client.ask('b64read 0x3000 4')).toBe(Buffer.from([0xde, 1, 2, 3]).toString('base64'));
    client.ask('memset 0x3000 0x3 0x5a');
    expect(client.ask('read 0x3000 4')).toBe('0x5a5a5a03');
  });

  test('bytes of registers are read and written in accesses as wide as they can be', () => {
    const client = new Client('q35');
    expect(client.ask('read 0xfed90008 0x8')).toBe(
      `0x${Buffer.from(new BigUint64Array([client.readq(0xfed9_0008)]).buffer).toString('hex')}`,
    );
    // RTADDR in one, then its upper half alone.
    client.ask('write 0xfed90020 0x8 0x0010000001000000');
    expect(client.readq(0xfed9_0020)).toBe(0x1_0000_1000n);
    client.ask('write 0xfed90024 0x4 0x02000000');
    expect(client.readq(0xfed9_0020)).toBe(0x2_0000_1000n);
  });

  test('time goes as it is told', () => {
    const client = new Client('q35');
    expect([client.ask('clock_step 100'), client.ask('clock_step 20'), client.ask('clock_set 7'), client.ask('endianness')]).toEqual([
      '100',
      '120',
      '7',
      'little',
    ]);
  });

  test.each(['sing', 'readl', 'readl x', 'read 0 0x10000000', 'writel 0x10'])('%s fails, and the next is answered', (line) => {
    const client = new Client('riscv-virt');
    expect(client.protocol.answer(line)).toMatch(/^FAIL /);
    expect(client.ask('readl 0x80000000')).toBe('0x0000000000000000');
  });

  test('other machines than a PC have no ports', () => {
    expect(new Client('arm-virt').protocol.answer('inl 0xcfc')).toMatch(/^FAIL/);
  });

  const place = fc.oneof(
    fc.constantFrom('0', '0x1000', '0xffffe', '0x100000', '0xb0010000', '0xfed90018', '0xfed90ffc', '0xe0000010', '0xcf8', '0xcfc'),
    fc.constantFrom('0xfffffffffffffffc', '0xffffffff', '0x1fffffffffffff', '-1', '-9', '08', '1e3', '0x', 'NaN', ''),
    fc.bigInt({ min: 0n, max: 1n << 64n }).map((word) => `0x${word.toString(16)}`),
  );
  const size = fc.constantFrom('0', '1', '3', '8', '0x1001', '0x1000001', '0xffffffffffffffff', '-1', 'many');
  const named = (...names: string[]) => fc.constantFrom(...names);
  const machine = testMachine('q35', { ramBytes: 1 << 20 });

  property.prop(
    [
      fc.array(
        fc
          .oneof(
            fc.string({ maxLength: 40 }),
            fc.tuple(named('readb', 'readw', 'readl', 'readq', 'inb', 'inw', 'inl', 'clock_step', 'clock_set'), place),
            fc.tuple(named('writeb', 'writel', 'writeq', 'outb', 'outw', 'outl'), place, place),
            fc.tuple(
              named('read', 'b64read', 'memset', 'write', 'b64write'),
              place,
              size,
              fc.oneof(place, fc.base64String({ maxLength: 9 })),
            ),
          )
          .map((words) => (typeof words === 'string' ? words : words.join(' '))),
        { minLength: 5, maxLength: 30 },
      ),
    ],
    { numRuns: 60 },
  )('whatever comes, each line has one answer', (commands) => {
    const protocol = new QtestProtocol(machine);
    for (const line of commands) {
      const answer = protocol.answer(line);
      if (answer === null ? line.trim() !== '' : !/^(OK|FAIL)/.test(answer)) throw new Error(`${line}: ${answer}`);
    }
    expect(protocol.answer('readl 0xfed90000')).toBe('OK 0x0000000000000010');
  });
});

describe('QMP', () => {
  test('greets, negotiates, describes its machine, resets with an event', () => {
    const client = new Client('q35');
    const qmp = new QmpProtocol(client.machine);
    expect(qmp.greeting).toMatchObject({ QMP: { capabilities: [] } });
    expect(qmp.answer('{"execute":"query-machines"}').lines).toMatchObject([{ error: { class: 'CommandNotFound' } }]);
    expect(qmp.answer('{"execute":"qmp_capabilities","id":7}').lines).toEqual([{ return: {}, id: 7 }]);
    const [machines] = qmp.answer('{"execute":"query-machines"}').lines as [{ return: object[] }];
    expect(Object.keys(machines.return[0]!).sort()).toEqual([
      'acpi',
      'cpu-max',
      'default-cpu-type',
      'deprecated',
      'hotpluggable-cpus',
      'name',
      'numa-mem-supported',
    ]);
    const [types] = qmp.answer('{"execute":"qom-list-types"}').lines as [{ return: { name: string }[] }];
    expect(types.return.map(({ name }) => name)).toEqual(['iommu-testdev', 'intel-iommu', 'amd-iommu']);
    client.dma(0x2000, 0x2000);
    expect(qmp.answer('{"execute":"system_reset"}').lines).toMatchObject([{ return: {} }, { event: 'RESET', data: { guest: false } }]);
    expect(client.readl(BAR + 0x10)).toBe(0);
    expect(qmp.answer('no json').lines).toMatchObject([{ error: { class: 'GenericError' } }]);
    expect(qmp.answer('{"execute":"quit"}').quit).toBe(true);
  });
});

describe('QMP, from a client that means harm', () => {
  const greeted = (): QmpProtocol => {
    const qmp = new QmpProtocol(machine);
    qmp.answer('{"execute":"qmp_capabilities"}');
    return qmp;
  };
  const machine = testMachine('q35', { ramBytes: 1 << 20 });
  const deep = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;

  test.each(['null', '7', '"quit"', '[]', '[{"execute":"quit"}]', 'true', '{', `{"execute":"query-status","id":${deep(100_000)}}`])(
    'what is no command is an error, before the negotiation and behind it (%#)',
    (line) => {
      for (const qmp of [new QmpProtocol(machine), greeted()]) {
        const { lines, quit } = qmp.answer(line);
        expect([lines.length, quit]).toEqual([1, false]);
        expect(JSON.parse(JSON.stringify(lines[0]))).toMatchObject({ error: { class: 'GenericError' } });
        expect(qmp.answer('{"execute":"qmp_capabilities"}').lines).toEqual([{ return: {} }]);
      }
    },
  );

  property.prop([fc.oneof(fc.jsonValue(), fc.record({ execute: fc.jsonValue(), id: fc.jsonValue(), arguments: fc.jsonValue() }))], {
    numRuns: 60,
  })('any value has one answer that can be said, and an ID comes back', (value) => {
    const { lines, quit } = greeted().answer(JSON.stringify(value));
    expect([lines.length, quit]).toEqual([1, false]);
    const said = JSON.parse(JSON.stringify(lines[0]));
    expect(Object.keys(said).filter((key) => key !== 'id')).toEqual(['error']);
    const command = JSON.parse(JSON.stringify(value));
    if (typeof command === 'object' && command !== null && !Array.isArray(command)) expect(said.id).toEqual(command.id);
  });
});
