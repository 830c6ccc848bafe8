-- milliseconds(at): the milliseconds since September 2020, of a time within reason.
(extract(epoch FROM least(greatest($1, timestamptz '2020-09-13 12:26:40+00'), timestamptz '2200-01-01 00:00:00+00'))
 * 1000 - 1600000000000)::bigint
