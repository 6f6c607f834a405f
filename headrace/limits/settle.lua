-- Replaces what a request had reserved by what it has used, once, however often it is called. See redis.py.
-- KEYS: window, leases, budgets. ARGV: lease, tokens, cost.
local window, leases, budgets = KEYS[1], KEYS[2], KEYS[3]
local lease, tokens, cost = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local second = time[1]
local at, reserved, reserved_cost, owner = second, 0, 0, nil
local held = redis.call('HGET', leases, lease)
if held then
  at, reserved, reserved_cost, owner = string.match(held, '^(%d+):(%-?%d+):(%-?%d+):(.*)$')
  if owner == '' then return 0 end
end
-- A lease that is gone was given back, because its process seemed dead: what it has used counts from now.
if not held and tokens > 0 then
  redis.call('HINCRBY', window, 't' .. second, string.format('%.0f', tokens))
  redis.call('HSET', window, 'e' .. second, second .. string.format('.%06d', tonumber(time[2])))
  redis.call('EXPIRE', window, 120)
elseif held and redis.call('HEXISTS', window, 't' .. at) == 1 then
  redis.call('HINCRBY', window, 't' .. at, string.format('%.0f', tokens - tonumber(reserved)))
end
if redis.call('EXISTS', budgets) == 1 then
  redis.call('HINCRBY', budgets, 'tokens', string.format('%.0f', tokens - tonumber(reserved)))
  redis.call('HINCRBY', budgets, 'cost', string.format('%.0f', cost - tonumber(reserved_cost)))
end
redis.call('HSET', leases, lease, second .. ':0:0:')
redis.call('EXPIRE', leases, 86400)
return 1
