"""Operations on accounts, in memory."""
